"""Metadata of an image's files that the file system could not store, or not yet, by inode.

Owners, modes, devices and extended attributes stay here where this process can't set them. The times of directories
are set when nothing is written into them any more, and the digests of files are for the ownership record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind
from provisioner.ownership.digests import FileDigests
from provisioner.ownership.inodes import InodeTable

_METADATA_SIZE, _XATTR_SIZE = 250, 200
"""The memory that a FileMetadata takes, and each attribute in it beside its name and value, in bytes."""
MEMORY_LIMIT = 56 << 20
"""Bytes of memory for the metadata of an image: enough for a signature of each of 90,000 files."""


class FileMetadata(NamedTuple):
    """What the image says about one file."""

    uid: int
    gid: int
    mode: int
    """The permission bits."""
    device: tuple[Kind, int, int] | None
    """Kind, major and minor number of the device that an empty file stands in for."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    """Names and values of the extended attributes."""


NO_TIME = -(2**63)
"""The value in place of a time where the image has none."""


class MetadataOverrides:
    """The metadata of those files of a tree for which the file system could not store all that the image says.

    It is stored by inode, so that hard links share it and nothing has to be done when names are removed. Equal metadata
    is stored once. `memory_limit` is in bytes: no image may fill the memory.
    """

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self.stale = False
        """Whether files were removed, so that a new file may have an inode that already has an entry here."""
        self.times = InodeTable("q", NO_TIME)
        """The times of directories, in nanoseconds since 1970."""
        self.digests = FileDigests()
        """The digests of regular files."""
        self._known: list[FileMetadata | None] = [None]
        self._numbers: dict[FileMetadata | None, int] = {None: 0}
        self._size = 0
        self._number = InodeTable("I", 0)
        self._memory_limit = memory_limit

    def set(self, inode: int, metadata: FileMetadata | None) -> None:
        """Store the metadata of an inode, or None where the file system has it all.

        Raises MalformedImage where it is more than the memory limit.
        """
        number = self._numbers.get(metadata)
        self._number[inode] = self._number_of(metadata) if number is None else number

    def get(self, inode: int) -> FileMetadata | None:
        """Return the metadata of an inode that the file system could not store, or None."""
        return self._known[self._number[inode]]

    def have_xattrs(self, select: Callable[[Iterable[tuple[bytes, bytes]]], Sequence[object]]) -> bool:
        """Return whether any metadata has extended attributes of which `select` returns some."""
        return any(metadata is not None and select(metadata.xattrs) for metadata in self._known)

    def update(self, other: MetadataOverrides) -> None:
        """Store all metadata and times of another tree, which has other inodes. Raises MalformedImage as `set` does."""
        self._number.update(other._number, [self._number_of(metadata) for metadata in other._known])
        self.times.update(other.times)
        self.digests.update(other.digests)

    def forget(self, file: int) -> None:
        """Remove metadata, time and digest of an open file, for which the image has no entry."""
        inode = os.fstat(file).st_ino
        self.set(inode, None)
        self.times[inode] = NO_TIME
        self.digests.forget(inode)

    def _number_of(self, metadata: FileMetadata | None) -> int:
        number = self._numbers.get(metadata)
        if number is None:
            number = self._numbers[metadata] = len(self._known)
            self._known.append(metadata)
            self._size += _size(metadata)
            if self._size > self._memory_limit:
                raise MalformedImage("the owners and attributes of its files are too many to be kept")
        return number


def _size(metadata: FileMetadata | None) -> int:
    return _METADATA_SIZE + sum(
        _XATTR_SIZE + len(name) + len(value) for name, value in (metadata.xattrs if metadata else ())
    )
