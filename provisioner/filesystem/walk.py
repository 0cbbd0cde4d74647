"""Walks through a tree in sorted order, however deep it is, with one open directory that can't be left."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

from provisioner.filesystem.descriptors import DIRECTORY, change_mode
from provisioner.filesystem.removal import names_in

NAMES_IN_MEMORY = 1 << 17
"""How many names of a directory are in memory at a time, some ten MB. A larger directory is read several times."""


Closed = Literal["raise", "skip", "open"]
"""What to do with a directory that this user may not read or search: raise PermissionError, leave its content out, or,
where it is this user's, give it these permissions until the walk has left it."""


class WalkedFile(NamedTuple):
    """A file of any type that a walk has come to."""

    name: bytes
    directory: int
    """The descriptor of the directory that it is in, open until the next file is asked for."""
    stat: os.stat_result
    """As lstat(2) returns it."""

    @property
    def is_directory(self) -> bool:
        """Return whether the walk goes on with the content of this directory."""
        return stat.S_ISDIR(self.stat.st_mode)


def walk(
    root: Path | int, names_in_memory: int = NAMES_IN_MEMORY, *, closed: Closed = "raise"
) -> Iterator[WalkedFile | None]:
    """Yield the directory `root`, a path or open, itself as `.`, then everything below it.

    The names of a directory are sorted, and each directory among them is followed by its content and by None. Other
    file systems that are mounted below are not entered. One directory is open at a time. Raises OSError; ESTALE where
    another process moves directories at the same time.
    """
    here = os.open(b".", DIRECTORY, dir_fd=root) if isinstance(root, int) else os.open(root, DIRECTORY)
    return _walk(here, names_in_memory, closed)


class _Above(NamedTuple):
    """A directory that the walk is in, or below."""

    names: Iterator[bytes]
    stat: os.stat_result
    former_mode: int | None = None
    """The permission bits to set when the walk leaves it."""


def _walk(here: int, names_in_memory: int, closed: Closed) -> Iterator[WalkedFile | None]:
    def names() -> Iterator[bytes]:
        """Yield the names in `here`, which is the same directory again whenever more of them are asked for."""
        some = first_names(names_in(here), names_in_memory)
        while some:
            yield from some
            last = some[-1]
            more = len(some) == names_in_memory
            some = first_names((name for name in names_in(here) if name > last), names_in_memory) if more else []

    above: list[_Above] = []
    try:
        top = os.fstat(here)
        yield WalkedFile(b".", here, top)
        above.append(_Above(names(), top))
        while above:
            for name in above[-1].names:
                try:
                    state = os.stat(name, dir_fd=here, follow_symlinks=False)
                except FileNotFoundError:  # removed since the names were read
                    continue
                yield WalkedFile(name, here, state)
                if stat.S_ISDIR(state.st_mode):
                    if state.st_dev != top.st_dev or (closed == "skip" and not _may_enter(here, name)):
                        yield None
                        continue
                    former_mode = _open_closed(here, name, state) if closed == "open" else None
                    here = _change_directory(here, name)
                    above.append(_Above(names(), os.fstat(here), former_mode))
                    break
            else:
                yield None
                here = _leave(here, above)
                if above and not os.path.samestat(os.fstat(here), above[-1].stat):
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    finally:
        with suppress(OSError):  # only the modes matter
            while any(directory.former_mode is not None for directory in above):
                here = _leave(here, above)
        os.close(here)


def _may_enter(here: int, name: bytes) -> bool:
    """Return whether this user may read and search the directory `name`."""
    return os.access(name, os.R_OK | os.X_OK, dir_fd=here)


def _open_closed(here: int, name: bytes, state: os.stat_result) -> int | None:
    """Allow this user to read and search a directory of their own; return its former mode if that was changed."""
    mode = stat.S_IMODE(state.st_mode)
    if state.st_uid != os.geteuid() or not state.st_uid or mode & 0o500 == 0o500:
        return None
    change_mode(here, name, mode | 0o700)
    return mode


def _leave(here: int, above: list[_Above]) -> int:
    """Take the last one from `above`, which is `here`; return the directory above it, if the walk came from there."""
    left = above.pop()
    there = os.open(b"..", DIRECTORY, dir_fd=here) if above else here
    if left.former_mode is not None:
        os.fchmod(here, left.former_mode)
    if there != here:
        os.close(here)
    return there


def first_names(names: Iterable[bytes], count: int) -> list[bytes]:
    """Return the first `count` names in sorted order, with little more than these in memory."""
    names = iter(names)
    some = list(islice(names, count))
    if len(some) == count:
        return heapq.nsmallest(count, chain(some, names))
    some.sort()
    return some


def _change_directory(here: int, name: bytes) -> int:
    """Open the directory `name` of the open directory `here`, close `here`, and return the new descriptor."""
    there = os.open(name, DIRECTORY, dir_fd=here)
    os.close(here)
    return there
