"""Walks through a tree in sorted order, however deep it is, with one open directory that can't be left."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import names_in

NAMES_IN_MEMORY = 1 << 17
"""How many names of a directory are in memory at a time, some ten MB. A larger directory is read several times."""


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


def walk(root: Path | int, names_in_memory: int = NAMES_IN_MEMORY) -> Iterator[WalkedFile | None]:
    """Yield what iterating over a Walk yields."""
    return iter(Walk(root, names_in_memory))


class Walk:
    """A walk through a tree. Iterate over it once.

    It yields the directory `root`, a path or open, itself as `.`, then everything below it. The names of a directory
    are sorted, and each directory among them is followed by its content and by None. Other file systems that are
    mounted below are not entered. One directory is open at a time. Raises OSError; ESTALE where another process moves
    directories at the same time.
    """

    def __init__(self, root: Path | int, names_in_memory: int = NAMES_IN_MEMORY) -> None:
        self._here = os.open(b".", DIRECTORY, dir_fd=root) if isinstance(root, int) else os.open(root, DIRECTORY)
        self._names_in_memory = names_in_memory
        self._is_skipped = False

    def skip(self) -> None:
        """Leave out the content of the directory that was yielded last, and the None behind it."""
        self._is_skipped = True

    def __iter__(self) -> Iterator[WalkedFile | None]:
        """Yield the files."""
        try:
            top = os.fstat(self._here)
            yield WalkedFile(b".", self._here, top)
            above = [] if self._was_skipped() else [(self._names(), top)]
            while above:
                for name in above[-1][0]:
                    try:
                        state = os.stat(name, dir_fd=self._here, follow_symlinks=False)
                    except FileNotFoundError:  # removed since the names were read
                        continue
                    yield WalkedFile(name, self._here, state)
                    if stat.S_ISDIR(state.st_mode) and not self._was_skipped():
                        if state.st_dev != top.st_dev:
                            yield None
                            continue
                        self._enter(name)
                        above.append((self._names(), os.fstat(self._here)))
                        break
                else:
                    yield None
                    above.pop()
                    if above:
                        self._enter(b"..")
                        if not os.path.samestat(os.fstat(self._here), above[-1][1]):
                            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        finally:
            os.close(self._here)

    def _was_skipped(self) -> bool:
        was_skipped, self._is_skipped = self._is_skipped, False
        return was_skipped

    def _names(self) -> Iterator[bytes]:
        """Yield the names in the current directory, which is the same again whenever more of them are asked for."""
        count = self._names_in_memory
        some = first_names(names_in(self._here), count)
        while some:
            yield from some
            last, is_all = some[-1], len(some) < count
            some = [] if is_all else first_names((name for name in names_in(self._here) if name > last), count)

    def _enter(self, name: bytes) -> None:
        """Go to the directory `name` of the current one."""
        there = os.open(name, DIRECTORY, dir_fd=self._here)
        os.close(self._here)
        self._here = there


def first_names(names: Iterable[bytes], count: int) -> list[bytes]:
    """Return the first `count` names in sorted order, with little more than these in memory."""
    names = iter(names)
    some = list(islice(names, count))
    if len(some) == count:
        return heapq.nsmallest(count, chain(some, names))
    some.sort()
    return some
