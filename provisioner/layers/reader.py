"""The files of a layer: written where they belong as the archive comes, or beside the tree ahead of their turn."""

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
"""An entry whose file, if it is one, was made beside the tree, and whether that has the owners of the image."""
_ENTRY, _TOLD_AT_A_TIME = 64, 1 << 15
"""What an entry takes beside its texts, and what all that are told of at a time take, about, in bytes."""


class LayerReader(Protocol):
    """The entries of a layer in their order, and a file for each that is one."""

    def __iter__(self) -> Iterator[Entry]: ...

    def put(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Put the file of the last entry into `tree`, whole; where that is, and whether it has the image's owners."""


class StreamedLayer:
    """A layer whose archive comes in `chunks`, which are read to the end; its files are written where they belong."""

    def __init__(self, chunks: Iterable[bytes], ownership: Ownership, budget: Budget) -> None:
        self._archive = Archive(budget.counted(chunks))
        self._ownership = ownership
        self._budget = budget

    def __iter__(self) -> Iterator[Entry]:
        """The entries in order. Raises MalformedImage, and MachineError for too much."""
        for entry in self._archive:
            holes = 0 if entry.extents is None else entry.size - sum(length for _, length in entry.extents)
            self._budget.spend(ENTRY_SIZE + holes)
            yield entry

    def put(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Write the file where it belongs."""
        place, file = tree.create_file(entry.path)
        return place, self.write(file, entry)

    def write(self, file: int, entry: Entry) -> bool:
        """Write all of an open, empty file and close it; whether it has the owners of the image."""
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
        """Write the parts of a file that the archive holds to their places, and leave holes between them."""
        os.ftruncate(file, entry.size)
        parts = iter(entry.extents or ())
        offset = left = 0
        for piece in self._archive.content():
            while piece:
                while not left:
                    offset, left = next(parts)
                written = os.pwrite(file, piece[:left], offset)
                piece, offset, left = piece[written:], offset + written, left - written


def extract(layer: StreamedLayer, folder: int) -> Iterator[list[ExtractedEntry]]:
    """Write the files of a layer into an open directory beside the tree, and tell of its entries as that is done.

    They are named by numbers, as Prepared looks for them. Raises what Unpacker.apply does.
    """
    number = size = 0
    made: list[ExtractedEntry] = []
    for entry in layer:
        has_owners = False
        if entry.kind is Kind.FILE:
            try:
                has_owners = layer.write(os.open(b"%d" % number, NEW_FILE, 0o600, dir_fd=folder), entry)
            except (OSError, ProvisionError):
                with naming(entry):
                    raise
            number += 1
        made.append((entry._replace(extents=None), has_owners))
        size += _ENTRY + len(entry.path) + len(entry.target) + sum(map(len, chain.from_iterable(entry.xattrs)))
        if size > _TOLD_AT_A_TIME:
            yield made
            made, size = [], 0
    yield made


class ExtractedLayer:
    """A layer whose files `prepare` writes into `folder`, an open directory, before it tells of them."""

    def __init__(self, made: Iterable[list[ExtractedEntry]], folder: int) -> None:
        self._made = made
        self._folder = folder
        self._name = b""
        self._given = False

    def __iter__(self) -> Iterator[Entry]:
        """The entries in order. Raises what `made` raises."""
        number = 0
        for entry, has_owners in chain.from_iterable(self._made):
            if entry.kind is Kind.FILE:
                self._name, self._given = b"%d" % number, has_owners
                number += 1
            yield entry

    def put(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Move the file to where it belongs."""
        place = tree.locate_free(entry.path)
        os.rename(self._name, place.name, src_dir_fd=self._folder, dst_dir_fd=place.directory)
        return place, self._given


@contextmanager
def naming(entry: Entry) -> Iterator[None]:
    """Turn what writing an entry has raised into ProvisionError that names it."""
    with error_context(printable(entry.path[:300])), tree_errors("write"):
        yield


def apply_metadata(file: int, entry: Entry, ownership: Ownership) -> bool:
    """Give an open file or directory what the image says of it; whether it has its owners.

    Owners first: changing them clears setuid, setgid and capabilities.
    """
    has_owners = ownership.exact and try_chown(entry, file)
    if entry.xattrs:
        set_xattrs(file, entry.xattrs, privileged=ownership.exact)
    os.fchmod(file, ownership.mode(entry.kind, entry.mode, has_owners))
    os.utime(file, ns=(entry.mtime, entry.mtime))
    return has_owners


def try_chown(entry: Entry, file: int | bytes, **where: Any) -> bool:
    """Give a file to the owners that the image names; whether this user namespace knows them."""
    try:
        os.chown(file, entry.uid, entry.gid, **where)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _write(file: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]
