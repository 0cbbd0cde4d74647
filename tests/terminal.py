"""Commands on a real terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from .tools import clean_environment, provision_command


def on_terminal(*args: str | Path, columns: int, cache: Path, **environment: str) -> tuple[int, str]:
    """Run `provision ARGS` with standard output on a terminal; its exit status, and what it wrote there.

    A line's end is `\\n`, as the program wrote it.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = clean_environment(**{"TERM": "xterm", "LANG": "C.UTF-8", **environment})
    command, options = provision_command(*args, cache=cache, env=env)
    with subprocess.Popen(command, **{**options, "stdout": follower, "stderr": subprocess.DEVNULL}) as process:
        os.close(follower)
        written = bytearray()
        while chunk := _read(leader):
            written += chunk
    os.close(leader)
    return process.returncode, written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """`text` without the colours that we use ourselves."""
    return re.sub(r"\x1b\[[0-9]?m", "", text)


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 1 << 16)
    except OSError:  # what Linux says when nobody has the other end open any more
        return b""
