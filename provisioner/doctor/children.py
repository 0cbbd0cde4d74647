"""Functions run in child processes, so that one that blocks, fails or is killed doesn't affect the others.

On Android, the kernel kills a process by SIGSYS for some system calls. They are tried only in child processes.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Reply:
    """The result of an action in a child process. At most one of `errno`, `signal` and `failure` is set."""

    value: Any = None
    """The value that the action returned, transferred as JSON."""
    errno: int = 0
    """The error number of the OSError that it raised."""
    signal: int = 0
    """The signal that ended the process."""
    failure: str = ""
    """Any other reason, in words."""

    @property
    def worked(self) -> bool:
        """Whether the action returned."""
        return not (self.errno or self.signal or self.failure)

    @property
    def reason(self) -> str:
        """Why it failed, as a text for users."""
        if self.signal:
            return f"the kernel ends the process that tries it ({signal.Signals(self.signal).name})"
        return os.strerror(self.errno) if self.errno else self.failure


@dataclass
class _Child:
    """A running child process."""

    number: int
    """The index of its action."""
    pid: int
    deadline: float
    """On the monotonic clock, in seconds."""
    data: bytes = b""
    """The bytes of its reply that have arrived."""
    running: bool = True
    """Whether it has not closed its end of the pipe yet, so that it may have to be killed."""


def attempt(action: Callable[[], object]) -> Reply:
    """Run `action` in a child process and return its reply. After three seconds it is killed."""
    return in_children([action], seconds=3, together=1, groups=False)[0]


def in_children(
    actions: Sequence[Callable[[], object]], seconds: float, together: int = 4, groups: bool = True
) -> list[Reply]:
    """Run each action in a child process, at most `together` at a time, and return their replies in order.

    Return values are transferred as JSON. An action that takes longer than `seconds` is killed; with `groups`, each
    child has a process group, which is killed too. After three times `seconds`, no more actions are started.
    """
    replies = [Reply(failure="there was no time left for it")] * len(actions)
    waiting = list(enumerate(actions))
    end = time.monotonic() + 3 * seconds
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                while waiting and len(selector.get_map()) < together and time.monotonic() < end:
                    number, action = waiting.pop(0)
                    read, pid = _start(action, groups)
                    child = _Child(number, pid, min(time.monotonic() + seconds, end))
                    selector.register(read, selectors.EVENT_READ, child)
                if not selector.get_map():
                    break
                _collect_replies(selector, replies, seconds, groups)
        finally:
            for key in list(selector.get_map().values()):
                _reap(selector, key, groups)
    return replies


def _collect_replies(selector: selectors.BaseSelector, replies: list[Reply], seconds: float, groups: bool) -> None:
    """Wait until a child writes or ends, or a deadline passes; store complete replies in `replies`."""
    soonest = min(key.data.deadline for key in selector.get_map().values())
    for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
        data = os.read(key.fd, 1 << 16)
        key.data.data += data
        if not data:
            key.data.running = False
            replies[key.data.number] = _parse_reply(key.data.data, _reap(selector, key, groups))
    for key in [key for key in selector.get_map().values() if key.data.deadline <= time.monotonic()]:
        reply = _parse_reply(key.data.data, _reap(selector, key, groups))
        # It may have answered in time, where it is this process that was late.
        has_answered = key.data.data and not reply.signal
        replies[key.data.number] = reply if has_answered else Reply(failure=f"no answer in {seconds:g} seconds")


def _start(action: Callable[[], object], group: bool) -> tuple[int, int]:
    """Fork a child for `action`; return the descriptor to read its reply from, and its process id."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_in_child(action, write, group)
    os.close(write)
    if group:
        with suppress(OSError):  # the child does the same; whichever comes first wins
            os.setpgid(pid, pid)
    return read, pid


def _run_in_child(action: Callable[[], object], write: int, group: bool) -> NoReturn:
    """Run the action in the child, write its reply to the descriptor `write` and exit. Its output is discarded."""
    reply: dict[str, object] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if group:
            os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        reply = {"value": action()}
    except OSError as error:
        reply = {"errno": error.errno} if error.errno else {"failure": str(error)}
    finally:
        if exception := sys.exception():
            reply = {"failure": f"{type(exception).__name__}: {exception}"}
        os.write(write, json.dumps(reply).encode())
        os._exit(0)


def _reap(selector: selectors.BaseSelector, key: selectors.SelectorKey, group: bool) -> int:
    """Kill a child that is still running, and the rest of its group; return its wait status."""
    selector.unregister(key.fd)
    os.close(key.fd)
    pid = key.data.pid
    if key.data.running:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if group:
        with suppress(ProcessLookupError, PermissionError):  # usually nothing is left
            os.killpg(pid, signal.SIGKILL)
    return status


def _parse_reply(data: bytes, status: int) -> Reply:
    with suppress(ValueError):  # there is none, or a part of one
        return Reply(**json.loads(data))
    if os.WIFSIGNALED(status):
        return Reply(signal=os.WTERMSIG(status))
    return Reply(failure="it ended without an answer")


def run_program(*argv: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program to its end; return its exit status (negative for a signal) and its output and errors together."""
    import sh

    words = [os.fspath(word) for word in argv]
    command: Any = sh.Command(words[0])
    options = {"_ok_code": range(-64, 256), "_return_cmd": True, "_tty_out": False, "_err_to_out": True, "_timeout": 5}
    try:
        done = command(*words[1:], _env=dict(os.environ if env is None else env), **options)
    except sh.TimeoutException:
        return -signal.SIGKILL, f"{words[0]} doesn't end"
    return int(done.exit_code), done.stdout.decode(errors="replace").strip()
