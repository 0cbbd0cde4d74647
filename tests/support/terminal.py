"""Runs commands on a pseudoterminal: with a given width, or with input."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import descendants_of, is_in_foreground, words_of
from tests.support.tools import (
    as_user,
    clean_environment,
    find_program,
    heed_signals,
    need,
    open_terminal,
    provision_command,
)
from tests.support.waiting import wait_until


def on_terminal(
    *args: str | Path, columns: int, cache: Path, stream: str = "stdout", **environment: str
) -> tuple[int, str]:
    """Run `provision ARGS` with a standard stream on a terminal; return its exit status, and what it wrote there.

    Lines end with `\\n`, as the program wrote them.
    """
    leader, follower = open_terminal()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = clean_environment(**{"TERM": "xterm", "LANG": "C.UTF-8", **environment})
    command, options = provision_command(*args, cache=cache, env=env)
    null = subprocess.DEVNULL
    with subprocess.Popen(command, **{**options, "stdout": null, "stderr": null, stream: follower}) as process:
        os.close(follower)
        written = read_terminal(leader)
    os.close(leader)
    return process.returncode, written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Return `text` without the colours of our own output."""
    return re.sub(r"\x1b\[[0-9]?m", "", text)


def read_terminal(leader: int) -> bytes:
    """Return what is written to a terminal until nobody has it open any more."""
    written = bytearray()
    with suppress(OSError):  # Linux fails with EIO then
        while chunk := os.read(leader, 1 << 16):
            written += chunk
    return bytes(written)


COUNTING_INTERRUPTS = (
    "n=0; trap 'n=$((n + 1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.04; done; "
    "for i in 1 2 3 4 5 6 7 8; do sleep 0.04; done; exit 4$n"
)
"""A shell's command that waits for a Ctrl-C, and a while for another one; its exit status is 40 and their number."""


class Terminal:
    """A command on its own terminal, whose output is read as it comes."""

    def __init__(self, command: Sequence[str | Path], user: bool) -> None:
        self.shown = b""
        for end in open_terminal():  # whether there are any
            os.close(end)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            options: dict[str, Any] = as_user() if user else {"env": clean_environment()}
            if "user" in options:
                os.setgroups([])
                os.setgid(options["group"])
                os.setuid(options["user"])
            os.chdir("/")
            heed_signals()
            program = find_program(str(command[0])) or str(command[0])
            os.execve(program, [str(word) for word in command], {**options["env"], "PS1": "PROMPT"})

    def until(self, text: bytes) -> None:
        """Read up to `text`. AssertionError unless it comes within a minute."""
        deadline = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:  # the other end is closed
                    time.sleep(0.05)
        self.shown = self.shown.partition(text)[2]

    def until_foreground(self, *command: str) -> None:
        """Wait until a process below this one runs `command` in the foreground of its terminal: keys reach it."""
        words = list(command)
        pids = partial(descendants_of, self.pid)
        wait_until(lambda: any(words_of(pid) == words and is_in_foreground(pid) for pid in pids()))

    def type(self, text: bytes) -> None:
        """Type `text`."""
        os.write(self.fd, text)

    def ends_within(self, seconds: float) -> bool:
        """Return whether the command ends in that time; its status stays for `end`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.02)
        return False

    def end(self) -> int:
        """Wait for the command and return its exit status; minus the signal's number when a signal ended it."""
        deadline = time.monotonic() + 60
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                pytest.fail(f"the command doesn't end; last output: {self.shown!r}")
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:
                    time.sleep(0.05)


def bash_at_terminal(*, user: bool = False) -> Terminal:
    """Start an interactive bash at a terminal, as root or as the unprivileged user, and wait for its prompt, PROMPT."""
    need("bash")
    screen = Terminal(["bash", "--norc", "--noediting", "-i"], user)
    screen.until(b"PROMPT")
    return screen
