"""Flags of open(2) and a context manager for file descriptors."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory, never through a symlink."""

EXISTING_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a file for reading, never through a symlink."""

ANY_FILE = EXISTING_FILE | os.O_NONBLOCK
"""Flags to open a file of any type for reading, never through a symlink, nor waiting for the writer of a FIFO."""

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to create a file for writing; open(2) fails where the name exists."""

NEW_READABLE_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to create a file for writing and reading; open(2) fails where the name exists."""

LOCATION = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a file of any type, also a symlink, as a location only (O_PATH of open(2)): it needn't be readable."""

DIRECTORY_LOCATION = LOCATION | os.O_DIRECTORY
"""Flags to open a directory as a location, to look up names in it: permission to search it is enough."""


@contextmanager
def directory_descriptor(directory: Path | int) -> Iterator[int]:
    """Return a context that gives the descriptor of a directory, which is opened for it unless it is open already."""
    if isinstance(directory, int):
        yield directory
        return
    with closing_descriptor(os.open(directory, DIRECTORY)) as opened:
        yield opened


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Return a context that gives an open file descriptor and closes it at its end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def closing_on_error(descriptor: int) -> Iterator[int]:
    """Return a context that gives an open file descriptor and closes it where the block raises; else it stays open."""
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def change_mode(directory: int, name: bytes, mode: int) -> None:
    """Set the permission bits of the file `name` in an open directory, never through a symlink. Raises OSError."""
    opened = os.open(name, LOCATION, dir_fd=directory)
    with closing_descriptor(opened):
        os.chmod(f"/proc/self/fd/{opened}", mode)  # fchmod(2) refuses a descriptor of O_PATH


def allow_entering(directory: int, name: bytes, state: os.stat_result) -> int | None:
    """Let this user read and search the directory `name`, if they own it and its permissions don't let them.

    `state` is its lstat(2). Returns the permission bits that it had; None where nothing was changed. Raises OSError.
    """
    mode = stat.S_IMODE(state.st_mode)
    if state.st_uid != os.geteuid() or not state.st_uid or mode & 0o500 == 0o500:
        return None
    change_mode(directory, name, mode | 0o700)
    return mode


def open_readable(directory: int, name: bytes, state: os.stat_result) -> int:
    """Open the file `name`, whose lstat(2) is `state`, for reading; a FIFO in its place is not waited for.

    Where this user owns it, but may not read it, its permissions are changed for the time of this call. Raises OSError.
    """
    try:
        return os.open(name, ANY_FILE, dir_fd=directory)
    except PermissionError:
        if state.st_uid != os.geteuid():
            raise
    mode = stat.S_IMODE(state.st_mode)
    change_mode(directory, name, mode | stat.S_IRUSR)
    try:
        return os.open(name, ANY_FILE, dir_fd=directory)
    finally:
        change_mode(directory, name, mode)
