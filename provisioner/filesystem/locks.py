"""Exclusive locks on open files and directories (flock(2)).

A lock belongs to the open file: processes that inherit it share the lock, and it ends when the last of them closes the
file or ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_INTERVAL = 0.02
"""Seconds between two tries of a lock that is waited for during a limited time."""


class _File(Protocol):
    def fileno(self) -> int: ...


def try_lock(file: int | _File) -> bool:
    """Lock an open file if nobody else holds it, and return whether that worked. Raises OSError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(file: int | _File, *, seconds: float | None = None) -> None:
    """Lock an open file; wait for its holder for at most `seconds`, or without end.

    Raises BlockingIOError when somebody else still holds it then, OSError where locks don't work.
    """
    if seconds is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + seconds
    while not try_lock(file):
        if time.monotonic() >= deadline:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        time.sleep(_INTERVAL)


def unlock(file: int | _File) -> None:
    """Release the lock of an open file that stays open."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked_directory(directory: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of `directory` during the context; `seconds` and errors are those of `lock`."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(handle, seconds=seconds)
        yield
    finally:
        os.close(handle)
