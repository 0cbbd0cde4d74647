"""SHA-256 digests of files, and a table of those of a tree's files until the ownership record is written.

The largest files have none, unless a second container may be made of them by reflinks: they would make the pull of an
image slower by a fifth.
"""

from __future__ import annotations

import os
from array import array
from hashlib import sha256

from provisioner.ownership.inodes import InodeTable

SIZE = 32
"""The bytes of a digest."""
EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
"""The digest of an empty file."""
LARGEST = 1 << 20
"""The most bytes of a file that is hashed wherever it is."""
_ALWAYS_HASHED = (
    *(b"etc/", b"var/lib/dpkg/", b"lib/apk/", b"usr/lib/apk/", b"var/lib/rpm/", b"usr/lib/sysimage/rpm/"),
    b"var/lib/pacman/",
)
"""Directories of which all files are hashed: the configuration and the package databases."""
MEMORY_LIMIT = 8 << 20
"""Bytes of memory for the digests of a tree: enough for 262,144 files, more than most images have.

Digests of further files are not stored. Files are read again for those. Processes send the digests to each other, so
that one may have them three times.
"""
_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)


def is_always_hashed(path: bytes) -> bool:
    """Return whether a file at this path of a tree gets a digest, however large it is."""
    return path.startswith(_ALWAYS_HASHED)


class SparseHasher:
    """Hashes a file of which only parts are stored, in the order of their offsets; the holes between are zeros."""

    def __init__(self) -> None:
        self._hasher = sha256()
        self._end = 0

    def update(self, data: bytes | memoryview, offset: int) -> None:
        """Hash the data at an offset, which isn't below the end of what came before."""
        self._fill(offset)
        self._hasher.update(data)
        self._end += len(data)

    def digest(self, size: int) -> bytes:
        """Return the digest of the file, which has `size` bytes."""
        self._fill(size)
        return self._hasher.digest()

    def _fill(self, offset: int) -> None:
        while self._end < offset:
            count = min(_CHUNK, offset - self._end)
            self._hasher.update(_ZEROS[:count])
            self._end += count


def hash_file(file: int) -> bytes:
    """Return the digest of an open regular file, which is read from its start. Raises OSError."""
    hasher, offset = sha256(), 0
    while data := os.pread(file, _CHUNK, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.digest()


class FileDigests:
    """The digests of files by inode, so that hard links share one and a new name changes nothing.

    Not all files have one here: compute that of another one from its content.
    """

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self._digests = bytearray()
        self._number = InodeTable("I", 0)
        """By inode the number of its digest, counted from 1."""
        self._memory_limit = memory_limit

    def set(self, inode: int, digest: bytes) -> None:
        """Store the digest of a file that has just been written; empty where it has none."""
        if digest and len(self._digests) < self._memory_limit:
            self._digests += digest
            self._number[inode] = len(self._digests) // SIZE
        else:
            self._number[inode] = 0

    def forget(self, inode: int) -> None:
        """Forget the digest of an inode that a new file may have got."""
        self._number[inode] = 0

    def copy(self, source: int, inode: int) -> None:
        """Give the file `inode` the digest of the file `source`, whose content it has, or none."""
        self._number[inode] = self._number[source]

    def get(self, inode: int) -> bytes | None:
        """Return the digest of a file, None where it isn't stored."""
        end = SIZE * self._number[inode]
        return bytes(self._digests[end - SIZE : end]) if end else None

    def update(self, other: FileDigests) -> None:
        """Store all digests of another tree, which has other inodes."""
        known = len(self._digests) // SIZE
        with memoryview(other._digests) as digests:
            self._digests += digests[: max(0, self._memory_limit - known * SIZE)]
        count = len(self._digests) // SIZE - known
        numbers = array("I", range(known, known + count + 1))
        numbers.extend([0] * (len(other._digests) // SIZE - count))
        self._number.update(other._number, numbers)
