"""Taking away directories with all that is in them, however deep and however closed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened: never through a symlink."""


def remove_tree(parent: int, name: bytes) -> None:
    """Take away the directory `name` below the open directory `parent`, with all that is in it.

    Every directory that is found is moved up to the top before it is looked into: neither the depth of a hostile tree
    nor the number of open files has a limit, and a mount point, which can't be moved, is left with all that is
    mounted there. Raises OSError.
    """
    unused = os.urandom(8).hex().encode()
    numbers = itertools.count()
    with _opened(name, parent) as top:
        found = _emptied(top, top, unused, numbers)
        while found:
            directory = found.pop()
            with _opened(directory, top) as opened:
                found += _emptied(opened, top, unused, numbers)
            os.rmdir(directory, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


def names_in(directory: int) -> Iterator[bytes]:
    """The names in an open directory, as they are read: however many, they take no memory.

    Each may be taken away before the next is asked for.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            yield os.fsencode(entry.name)


def _emptied(directory: int, top: int, unused: bytes, numbers: Iterator[int]) -> list[bytes]:
    """Take away what is in `directory`; its directories are moved to `top`, and their names there are the result."""
    moved = []
    for name in names_in(directory):
        if name.startswith(unused):  # moved here just now
            continue
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            above = b"%s-%d" % (unused, next(numbers))
            with _opened(name, directory):  # a directory has to be writable to be moved
                os.rename(name, above, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(above)
    return moved


@contextmanager
def _opened(name: bytes, parent: int) -> Iterator[int]:
    """The directory `name`, open, and allowed to be emptied and moved."""
    try:
        directory = os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        directory = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        if os.fstat(directory).st_mode & 0o700 != 0o700:
            os.fchmod(directory, 0o700)
        yield directory
    finally:
        os.close(directory)
