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

from provisioner.filesystem.descriptors import DIRECTORY, allow_entering, closing_descriptor
from provisioner.filesystem.mounts import is_mount_point, mount_names_below
from provisioner.filesystem.removal import names_in

NAMES_IN_MEMORY = 1 << 16
"""How many names of a directory are in memory at a time, some five MB. A larger directory is read several times."""


Closed = Literal["raise", "skip", "open"]
"""What to do with a directory that this user may not read or search: raise PermissionError, leave its content out, or,
where it is this user's, give it these permissions until the walk has left it. Unless the first is chosen, a directory
that is removed meanwhile is passed over."""


class WalkedFile(NamedTuple):
    """A file of any type that a walk has come to."""

    name: bytes
    directory: int
    """The descriptor of the directory that it is in, open until the next file is asked for."""
    stat: os.stat_result
    """As lstat(2) returns it."""
    is_mounted: bool = False
    """Whether something is mounted there, also of the same file system; or a subvolume of btrfs begins. What is below
    isn't walked."""

    @property
    def is_directory(self) -> bool:
        """Return whether the walk goes on with the content of this directory."""
        return stat.S_ISDIR(self.stat.st_mode)


def walk(
    root: Path | int, names_in_memory: int = NAMES_IN_MEMORY, *, closed: Closed = "raise"
) -> Iterator[WalkedFile | None]:
    """Yield what iterating over a Walk yields."""
    return iter(Walk(root, names_in_memory, closed=closed))


class _Above(NamedTuple):
    """A directory that a walk is in, or below."""

    names: Iterator[bytes]
    stat: os.stat_result
    former_mode: int | None = None
    """The permission bits to set when the walk leaves it."""


class Walk:
    """A walk through a tree. Iterate over it once.

    It yields the directory `root`, a path or open, itself as `.`, then everything below it. The names of a directory
    are sorted, and each directory among them is followed by its content and by None. What is mounted below when the
    walk begins, and other file systems, are not entered. One directory is open at a time. Raises OSError; ESTALE where
    another process moves directories at the same time.
    """

    def __init__(self, root: Path | int, names_in_memory: int = NAMES_IN_MEMORY, *, closed: Closed = "raise") -> None:
        self._here = os.open(b".", DIRECTORY, dir_fd=root) if isinstance(root, int) else os.open(root, DIRECTORY)
        self._names_in_memory = names_in_memory
        self._closed = closed
        self._is_skipped = False
        self._above: list[_Above] = []

    def skip(self) -> None:
        """Leave out the content of the directory that was yielded last, and the None behind it."""
        self._is_skipped = True

    def __iter__(self) -> Iterator[WalkedFile | None]:
        """Yield the files."""
        above, mount_names = self._above, mount_names_below(self._here)
        try:
            top = os.fstat(self._here)
            yield WalkedFile(b".", self._here, top)
            if not self._was_skipped():
                above.append(_Above(self._names(), top))
            while above:
                for name in above[-1].names:
                    try:
                        state = os.stat(name, dir_fd=self._here, follow_symlinks=False)
                    except FileNotFoundError:  # removed since the names were read
                        continue
                    is_mounted = (state.st_dev != top.st_dev or name in mount_names) and self._is_mounted(name, state)
                    # This is three times as fast as the class.
                    yield tuple.__new__(WalkedFile, (name, self._here, state, is_mounted))
                    if state.st_mode & 0o170000 == stat.S_IFDIR and not self._was_skipped():
                        if is_mounted or not self._may_enter(name) or not self._enter(name, state):
                            yield None
                            continue
                        break
                else:
                    yield None
                    self._leave()
                    if above and not os.path.samestat(os.fstat(self._here), above[-1].stat):
                        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        finally:
            with suppress(OSError):  # only the modes matter
                while any(directory.former_mode is not None for directory in above):
                    self._leave()
            os.close(self._here)

    def _is_mounted(self, name: bytes, state: os.stat_result) -> bool:
        """Return whether the file `name` of the current directory, whose lstat(2) is `state`, is another mount's.

        Files of overlayfs other than directories may have device numbers of their own; subvolumes of btrfs, too.
        """
        if stat.S_ISDIR(state.st_mode) and state.st_dev != os.fstat(self._here).st_dev:
            return True
        try:
            return is_mount_point(self._here, name)
        except FileNotFoundError:
            return False

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

    def _may_enter(self, name: bytes) -> bool:
        """Return whether the directory `name` of the current one is entered: closed ones may be skipped."""
        return self._closed != "skip" or os.access(name, os.R_OK | os.X_OK, dir_fd=self._here)

    def _enter(self, name: bytes, state: os.stat_result) -> bool:
        """Go to the directory `name` of the current one, whose lstat(2) is `state`.

        Returns False, with `open` only, where it was removed meanwhile.
        """
        try:
            former_mode = allow_entering(self._here, name, state) if self._closed == "open" else None
            self._go(name)
        except FileNotFoundError:
            if self._closed != "open":
                raise
            return False
        self._above.append(_Above(self._names(), os.fstat(self._here), former_mode))
        return True

    def _leave(self) -> None:
        """Go to the directory above the current one, if the walk came from there."""
        former_mode = self._above.pop().former_mode
        if former_mode is None:
            if self._above:
                self._go(b"..")
            return
        with closing_descriptor(os.dup(self._here)) as left:
            if self._above:
                self._go(b"..")
            os.fchmod(left, former_mode)

    def _go(self, name: bytes) -> None:
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
