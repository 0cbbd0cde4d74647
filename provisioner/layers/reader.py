"""Layer readers: they yield the entries of a layer, and write each file into the tree or move it there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol

from provisioner.errors import ProvisionError, error_context
from provisioner.filesystem.descriptors import NEW_FILE
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.xattrs import set_xattrs
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.tar import Archive, Entry
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Place, Tree, tree_errors
from provisioner.terminal.escaping import printable

ExtractedEntry = tuple[Entry, bool]
"""An entry, and whether its file, which is already extracted, has the owners of the image (False for other kinds)."""
_ENTRY_SIZE = 64
"""Bytes of memory that an entry takes besides its texts, about."""
_BATCH_SIZE = 1 << 15
"""Bytes of memory that a batch of extracted entries takes, about."""


class LayerReader(Protocol):
    """Yields the entries of a layer in their order, and delivers the file of each that is a regular file."""

    def __iter__(self) -> Iterator[Entry]: ...

    def put_file(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Put the file of the last entry into `tree` in place of whatever was there.

        Returns its place, and whether it has the owners of the image. Raises OSError and ProvisionError.
        """


class StreamedLayer:
    """A layer whose archive is parsed while it streams, to its end; its files are written directly into the tree."""

    def __init__(self, chunks: Iterable[bytes], ownership: Ownership, budget: Budget) -> None:
        self._archive = Archive(budget.counted(chunks))
        self._ownership = ownership
        self._budget = budget

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order. Raises MalformedImage, and MachineError where the budget is exceeded."""
        for entry in self._archive:
            holes = 0 if entry.extents is None else entry.size - sum(length for _, length in entry.extents)
            self._budget.spend(ENTRY_SIZE + holes)
            yield entry

    def put_file(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Write the file into the tree."""
        place, file = tree.create_file(entry.path)
        return place, self.write(file, entry)

    def write(self, file: int, entry: Entry) -> bool:
        """Write content and metadata of an open, empty file, and close it.

        Returns whether it has the owners of the image.
        """
        try:
            if entry.extents is None:
                for piece in self._archive.content():
                    _write(file, piece)
            else:
                self._write_sparse(file, entry)
            return apply_metadata(file, entry, self._ownership)
        finally:
            os.close(file)

    def _write_sparse(self, file: int, entry: Entry) -> None:
        """Write the extents that the archive stores to their offsets, and leave holes between them."""
        os.ftruncate(file, entry.size)
        extents = iter(entry.extents or ())
        offset = left = 0
        for piece in self._archive.content():
            while piece:
                while not left:
                    offset, left = next(extents)
                written = os.pwrite(file, piece[:left], offset)
                piece, offset, left = piece[written:], offset + written, left - written


def extract(layer: StreamedLayer, folder: int) -> Iterator[list[ExtractedEntry]]:
    """Write the files of a layer into the open directory `folder`, and yield the entries in batches, after their files.

    The files are named 0, 1, … in their order, as ExtractedLayer expects. Raises what LayerApplier.apply does.
    """
    number = size = 0
    batch: list[ExtractedEntry] = []
    for entry in layer:
        has_owners = False
        if entry.kind is Kind.FILE:
            try:
                has_owners = layer.write(os.open(b"%d" % number, NEW_FILE, 0o600, dir_fd=folder), entry)
            except (OSError, ProvisionError):
                with entry_errors(entry):
                    raise
            number += 1
        batch.append((entry._replace(extents=None), has_owners))
        size += _ENTRY_SIZE + len(entry.path) + len(entry.target) + sum(map(len, chain.from_iterable(entry.xattrs)))
        if size > _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    yield batch


class ExtractedLayer:
    """A layer that `extract` has extracted into the open directory `folder`; its files are moved into the tree."""

    def __init__(self, batches: Iterable[list[ExtractedEntry]], folder: int) -> None:
        self._batches = batches
        self._folder = folder
        self._name = b""
        self._has_owners = False

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order. Raises what iterating over `batches` raises."""
        number = 0
        for entry, has_owners in chain.from_iterable(self._batches):
            if entry.kind is Kind.FILE:
                self._name, self._has_owners = b"%d" % number, has_owners
                number += 1
            yield entry

    def put_file(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Move the file into the tree."""
        place = tree.locate_free(entry.path)
        os.rename(self._name, place.name, src_dir_fd=self._folder, dst_dir_fd=place.directory)
        return place, self._has_owners


@contextmanager
def entry_errors(entry: Entry) -> Iterator[None]:
    """Turn an error of writing an entry into a ProvisionError whose message begins with the entry's path."""
    with error_context(printable(entry.path[:300])), tree_errors("write"):
        yield


def apply_metadata(file: int, entry: Entry, ownership: Ownership) -> bool:
    """Set owners, extended attributes, mode and time of an open file or directory.

    Returns whether it has the owners of the image. They come first: chown clears setuid, setgid and capabilities.
    """
    has_owners = ownership.exact and try_chown(entry, file)
    if entry.xattrs:
        set_xattrs(file, entry.xattrs, privileged=ownership.exact)
    os.fchmod(file, ownership.mode(entry.kind, entry.mode, has_owners))
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


def _write(file: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]
