"""Probes in processes of their own: what blocks, breaks or ends one of them doesn't reach the others.

On Android some system calls that apps may not use end the process with SIGSYS, so that none is tried in our own.
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
    """What became of an action: its `value`, or why there is none."""

    value: Any = None
    errno: int = 0
    signal: int = 0
    failure: str = ""

    @property
    def worked(self) -> bool:
        """Whether the action came to its end."""
        return not (self.errno or self.signal or self.failure)

    @property
    def why(self) -> str:
        """Why it didn't, for people."""
        if self.signal:
            return f"the kernel ends what tries it ({signal.Signals(self.signal).name})"
        return os.strerror(self.errno) if self.errno else self.failure


@dataclass
class _Child:
    """A process at work on the action of a number."""

    number: int
    pid: int
    deadline: float
    data: bytes = b""
    overdue: bool = True


def attempt(action: Callable[[], object]) -> Reply:
    """Try `action` in a child process and say what became of it. It has to be one that can't block."""
    return in_children([action], seconds=3, together=1, groups=False)[0]


def in_children(
    actions: Sequence[Callable[[], object]], seconds: float, together: int = 4, groups: bool = True
) -> list[Reply]:
    """Run each action in a process of its own, at most so many together, and give their replies in order.

    Values travel as JSON. Whatever isn't done after `seconds` is killed, with all that it has started where it has a
    process group of its own; after three times that, nothing new is started.
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
                _advance(selector, replies, seconds, groups)
        finally:
            for key in list(selector.get_map().values()):
                _finish(selector, key, groups)
    return replies


def _advance(selector: selectors.BaseSelector, replies: list[Reply], seconds: float, groups: bool) -> None:
    """Wait for some child to say something or to end, or for the first deadline."""
    soonest = min(key.data.deadline for key in selector.get_map().values())
    for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
        data = os.read(key.fd, 1 << 16)
        key.data.data += data
        if not data:
            key.data.overdue = False
            replies[key.data.number] = _reply(key.data.data, _finish(selector, key, groups))
    for key in [key for key in selector.get_map().values() if key.data.deadline <= time.monotonic()]:
        replies[key.data.number] = Reply(failure=f"no answer in {seconds:g} seconds")
        _finish(selector, key, groups)


def _start(action: Callable[[], object], group: bool) -> tuple[int, int]:
    """Fork a child for `action`; where its reply can be read, and its process id."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _work(action, write, group)
    os.close(write)
    if group:
        with suppress(OSError):  # the child does the same, whoever comes first
            os.setpgid(pid, pid)
    return read, pid


def _work(action: Callable[[], object], write: int, group: bool) -> NoReturn:
    """What the child does: no word of it reaches our own output."""
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
        if broken := sys.exception():
            reply = {"failure": f"{type(broken).__name__}: {broken}"}
        os.write(write, json.dumps(reply).encode())
        os._exit(0)


def _finish(selector: selectors.BaseSelector, key: selectors.SelectorKey, group: bool) -> int:
    """End a child and what is left of its group; its wait status."""
    selector.unregister(key.fd)
    os.close(key.fd)
    pid = key.data.pid
    if key.data.overdue:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if group:
        with suppress(ProcessLookupError, PermissionError):  # the usual case: nothing is left
            os.killpg(pid, signal.SIGKILL)
    return status


def _reply(data: bytes, status: int) -> Reply:
    if data:
        return Reply(**json.loads(data))
    if os.WIFSIGNALED(status):
        return Reply(signal=os.WTERMSIG(status))
    return Reply(failure="it ended without an answer")


def run_program(*argv: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program to its end: its exit status (negative for a signal's number) and all its output."""
    import sh

    words = [os.fspath(word) for word in argv]
    command: Any = sh.Command(words[0])
    options = {"_ok_code": range(-64, 256), "_return_cmd": True, "_tty_out": False, "_err_to_out": True, "_timeout": 5}
    try:
        done = command(*words[1:], _env=dict(os.environ if env is None else env), **options)
    except sh.TimeoutException:
        return -signal.SIGKILL, f"{words[0]} doesn't end"
    return int(done.exit_code), done.stdout.decode(errors="replace").strip()
