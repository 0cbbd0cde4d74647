"""What an image says of files and this file system can't hold, or not yet, by inode.

Owners, modes, devices and attributes may never be the disk's; the times of directories are when nothing is written into
them any more.
"""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind

_PAGE_BITS = 6
_METADATA_SIZE, _XATTR_SIZE = 250, 200
"""What a Said takes in memory, and each attribute in it beside its text, in bytes."""
_METADATA_LIMIT = 56 << 20
"""Enough for a signature of each of 90,000 files. No image may fill the memory."""


class FileMetadata(NamedTuple):
    """What the image says of one file. `device` is what an empty file stands in for: kind, major and minor."""

    uid: int
    gid: int
    mode: int
    device: tuple[Kind, int, int] | None
    xattrs: tuple[tuple[bytes, bytes], ...]


class ByInode:
    """A number for each inode, `nothing` where none was set.

    The inodes of a new tree are neighbours: numbers are kept in pages, so that each takes some ten bytes. `kind` is
    their type as `array` names it.
    """

    def __init__(self, kind: str, nothing: int) -> None:
        self._nothing = nothing
        self._fresh = array(kind, [nothing]) * (1 << _PAGE_BITS)
        self._pages: dict[int, array[int]] = {}

    def __getitem__(self, inode: int) -> int:
        """The number of an inode."""
        page = self._pages.get(inode >> _PAGE_BITS)
        return self._nothing if page is None else page[inode & (1 << _PAGE_BITS) - 1]

    def __setitem__(self, inode: int, number: int) -> None:
        """Set it."""
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            if number == self._nothing:
                return
            page = self._pages[inode >> _PAGE_BITS] = self._fresh[:]
        page[inode & (1 << _PAGE_BITS) - 1] = number


NO_TIME = -(2**63)
"""In the place of nanoseconds: the image says none."""


class MetadataOverrides:
    """What is said of the files of a tree, where it isn't what the disk says.

    By inode, so that hard links share it and nothing has to be done where names go. What is said of many is kept once.
    """

    def __init__(self) -> None:
        self.stale = False
        """Whether files were taken away, so that the inode of a new one may be one that something is said of."""
        self.times = ByInode("q", NO_TIME)
        """The times of directories, in nanoseconds since 1970."""
        self._known: list[FileMetadata | None] = [None]
        self._numbers: dict[FileMetadata | None, int] = {None: 0}
        self._size = 0
        self._number = ByInode("I", 0)

    def set(self, inode: int, metadata: FileMetadata | None) -> None:
        """Note what is said of an inode; None where the disk says it. Raises MalformedImage for too much."""
        number = self._numbers.get(metadata)
        if number is None:
            number = self._numbers[metadata] = len(self._known)
            self._known.append(metadata)
            self._size += _size(metadata)
            if self._size > _METADATA_LIMIT:
                raise MalformedImage("the owners and attributes of its files are too many to be kept")
        self._number[inode] = number

    def get(self, inode: int) -> FileMetadata | None:
        """What is said of an inode."""
        return self._known[self._number[inode]]

    def forget(self, file: int) -> None:
        """Let the disk say it for a file, open, that the image has no entry for."""
        inode = os.fstat(file).st_ino
        self.set(inode, None)
        self.times[inode] = NO_TIME


def _size(metadata: FileMetadata | None) -> int:
    return _METADATA_SIZE + sum(
        _XATTR_SIZE + len(name) + len(value) for name, value in (metadata.xattrs if metadata else ())
    )
