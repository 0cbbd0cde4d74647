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
    """Yield the directory `root`, a path or open, itself as `.`, then everything below it.

    The names of a directory are sorted, and each directory among them is followed by its content and by None. Other
    file systems that are mounted below are not entered. One directory is open at a time. Raises OSError; ESTALE where
    another process moves directories at the same time.
    """
    here = os.open(b".", DIRECTORY, dir_fd=root) if isinstance(root, int) else os.open(root, DIRECTORY)
    return _walk(here, names_in_memory)


def _walk(here: int, names_in_memory: int) -> Iterator[WalkedFile | None]:
    def names() -> Iterator[bytes]:
        """Yield the names in `here`, which is the same directory again whenever more of them are asked for."""
        some = first_names(names_in(here), names_in_memory)
        while some:
            yield from some
            last = some[-1]
            more = len(some) == names_in_memory
            some = first_names((name for name in names_in(here) if name > last), names_in_memory) if more else []

    try:
        top = os.fstat(here)
        yield WalkedFile(b".", here, top)
        above = [(names(), top)]
        while above:
            for name in above[-1][0]:
                try:
                    state = os.stat(name, dir_fd=here, follow_symlinks=False)
                except FileNotFoundError:  # removed since the names were read
                    continue
                yield WalkedFile(name, here, state)
                if stat.S_ISDIR(state.st_mode):
                    if state.st_dev != top.st_dev:
                        yield None
                        continue
                    here = _change_directory(here, name)
                    above.append((names(), os.fstat(here)))
                    break
            else:
                yield None
                above.pop()
                if above:
                    here = _change_directory(here, b"..")
                    if not os.path.samestat(os.fstat(here), above[-1][1]):
                        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    finally:
        os.close(here)


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
