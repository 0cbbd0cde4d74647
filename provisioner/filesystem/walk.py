"""Going through a tree in order, below an open directory that can't be left, however deep it is."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from provisioner.filesystem.removal import DIRECTORY, names_in

_NAMES = 1 << 17
"""How many names of a directory are in memory at a time, some ten MB. A larger one is read several times."""


class Found(NamedTuple):
    """A name in an open directory, which stays open until the next is asked for, and its `lstat`."""

    name: bytes
    directory: int
    state: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether what is in it follows."""
        return stat.S_ISDIR(self.state.st_mode)


def walk(root: Path) -> Iterator[Found | None]:
    """What is in the directory `root`: itself as `.`, then all that is below.

    The names of a directory are sorted, and each directory among them is followed by what is in it and by None. Other
    file systems that are mounted below are not entered. One directory is open at a time. Raises OSError, ESTALE where
    somebody moves directories meanwhile.
    """
    return _walk(os.open(root, DIRECTORY), names_in)


def directories(root: int) -> Iterator[Found]:
    """The open directory `root`, as `.`, and all directories below it, in the same order."""
    return filter(None, _walk(os.open(b".", DIRECTORY, dir_fd=root), _directories_in))


def _walk(here: int, names_of: Callable[[int], Iterator[bytes]]) -> Iterator[Found | None]:
    def names() -> Iterator[bytes]:
        """The names in `here`, which is the same directory again whenever more of them are asked for."""
        few = _first(names_of(here), b"")
        while few:
            yield from few
            few = _first(names_of(here), few[-1]) if len(few) == _NAMES else []

    try:
        top = os.fstat(here)
        yield Found(b".", here, top)
        above = [(names(), top)]
        while above:
            for name in above[-1][0]:
                try:
                    state = os.stat(name, dir_fd=here, follow_symlinks=False)
                except FileNotFoundError:  # taken away meanwhile
                    continue
                yield Found(name, here, state)
                if stat.S_ISDIR(state.st_mode):
                    if state.st_dev != top.st_dev:
                        yield None
                        continue
                    here = _moved(here, name)
                    above.append((names(), os.fstat(here)))
                    break
            else:
                yield None
                above.pop()
                if above:
                    here = _moved(here, b"..")
                    if not os.path.samestat(os.fstat(here), above[-1][1]):
                        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    finally:
        os.close(here)


def _first(names: Iterator[bytes], behind: bytes) -> list[bytes]:
    """The first _NAMES of these names that are behind one, sorted."""
    if behind:
        names = (name for name in names if name > behind)
    found = list(islice(names, _NAMES))
    if len(found) == _NAMES:
        return heapq.nsmallest(_NAMES, chain(found, names))
    found.sort()
    return found


def _directories_in(here: int) -> Iterator[bytes]:
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield os.fsencode(entry.name)


def _moved(here: int, name: bytes) -> int:
    """The directory `name` of the open directory `here`, open in its place."""
    there = os.open(name, DIRECTORY, dir_fd=here)
    os.close(here)
    return there
