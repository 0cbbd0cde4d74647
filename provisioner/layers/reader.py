"""Reads a layer: yields its entries, and writes each file into the tree."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from provisioner.archives.tar import Archive, Entry, Taker
from provisioner.errors import error_context
from provisioner.filesystem.xattrs import set_xattrs
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.ownership.digests import EMPTY, LARGEST, SparseHasher, is_always_hashed
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import Place, Tree, tree_errors
from provisioner.terminal.escaping import printable


class StreamedLayer:
    """A layer whose archive is parsed while it streams, to its end; its files are written directly into the tree."""

    has_whiteouts = True
    """Whether entries may be whiteouts."""

    def __init__(
        self, chunks: Iterable[bytes], ownership: Ownership, budget: Budget, *, hashes_all: bool = False
    ) -> None:
        self._archive = Archive(budget.count_chunks(chunks))
        self._ownership = ownership
        self._budget = budget
        self._hashes_all = hashes_all

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order. Raises MalformedImage, and MachineError where the budget is exceeded."""
        for entry in self._archive:
            holes = 0 if entry.extents is None else entry.size - sum(length for _, length in entry.extents)
            self._budget.spend(ENTRY_SIZE + holes)
            yield entry

    def finish(self, tree: Tree, links: Links) -> None:
        """Do what can only be done when all entries are in `tree`: here, nothing. Raises ProvisionError."""

    def share(self, taker: Taker) -> bool:
        """Let `taker` take plain files in place of yielding them as entries. Returns False where that can't be done."""
        self._archive.taker = taker
        return True

    def put_file(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Write the file of the last entry into `tree` in place of whatever was there, and store its digest, if any.

        Returns its place, and whether it has the owners of the image. Raises OSError and ProvisionError.
        """
        mode = self._ownership.mode(entry.kind, entry.mode)
        place, file = tree.create_file(entry.path, mode & 0o777 | 0o600)
        try:
            is_hashed = entry.size <= LARGEST or self._hashes_all or is_always_hashed(place.path)
            digest = self.write_content(file, entry, is_hashed=is_hashed)
            status = os.fstat(file)
            tree.overrides.digests.set(status.st_ino, digest)
            return place, apply_metadata(file, entry, self._ownership, status)
        finally:
            os.close(file)

    def write_content(self, file: int, entry: Entry, *, is_hashed: bool) -> bytes:
        """Write the content of the last entry, a regular file, to an open, empty file.

        Returns its SHA-256 digest; empty unless `is_hashed`. Raises OSError and ProvisionError.
        """
        if entry.extents is not None:
            return self._write_sparse(file, entry, is_hashed)
        if not entry.size:
            return EMPTY if is_hashed else b""
        archive = self._archive
        piece = archive.read_piece()
        hasher = sha256(piece) if is_hashed else None
        write_piece(file, piece)
        while archive.left:
            piece = archive.read_piece()
            if hasher is not None:
                hasher.update(piece)
            write_piece(file, piece)
        return hasher.digest() if hasher is not None else b""

    def _write_sparse(self, file: int, entry: Entry, is_hashed: bool) -> bytes:
        """Write the extents that the archive stores to their offsets, and leave holes between them.

        Returns the SHA-256 digest of the whole content, in which the holes are zeros; empty unless `is_hashed`.
        """
        os.ftruncate(file, entry.size)
        hasher = SparseHasher()
        extents = iter(entry.extents or ())
        offset = left = 0
        for piece in self._archive.content():
            while piece:
                while not left:
                    offset, left = next(extents)
                written = os.pwrite(file, piece[:left], offset)
                if is_hashed:
                    hasher.update(piece[:written], offset)
                piece, offset, left = piece[written:], offset + written, left - written
        return hasher.digest(entry.size) if is_hashed else b""


@contextmanager
def entry_errors(entry: Entry) -> Iterator[None]:
    """Turn an error of writing an entry into a ProvisionError whose message begins with the entry's path."""
    with error_context(printable(entry.path[:300])), tree_errors("write"):
        yield


def apply_metadata(file: int, entry: Entry, ownership: Ownership, status: os.stat_result) -> bool:
    """Set owners, extended attributes, mode and time of an open file or directory, whose fstat(2) is `status`.

    Returns whether it has the owners of the image. They come first: chown clears setuid, setgid and capabilities.
    """
    has_owners = ownership.exact
    mode = status.st_mode & 0o7777
    if has_owners and (status.st_uid != entry.uid or status.st_gid != entry.gid):
        has_owners, mode = try_chown(entry, file), -1
    if entry.xattrs:
        set_xattrs(file, entry.xattrs, privileged=ownership.exact)
    if mode != (wanted := ownership.mode(entry.kind, entry.mode, has_owners)):
        os.fchmod(file, wanted)
    os.utime(file, ns=(entry.mtime, entry.mtime))
    return has_owners


def try_chown(entry: Entry, file: int | bytes, **options: Any) -> bool:
    """Give a file the owners of the image, and return whether this user namespace maps them."""
    try:
        os.chown(file, entry.uid, entry.gid, **options)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def write_piece(file: int, piece: memoryview) -> None:
    """Write all of `piece` to an open file, where it is. Raises OSError."""
    while (count := os.write(file, piece)) < len(piece):
        piece = piece[count:]
