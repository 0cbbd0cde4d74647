"""Reads an ownership record as a layer that has all files of an image; their content is in files of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from provisioner.archives.tar import Entry
from provisioner.filesystem.descriptors import EXISTING_FILE, NEW_FILE, closing_descriptor
from provisioner.filesystem.kind import Kind
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.reader import StreamedLayer, apply_metadata
from provisioner.ownership.mtree import MtreeEntry, parse_entries
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Place, Tree


class RecordedLayer(StreamedLayer):
    """A layer with the entries of the record in `lines`.

    `folder` is an open directory in which files have the numbers of their entries in the record as names; they are
    moved to the tree. `first_names` has the path of the first name of a file by the numbers of its other names, and
    `left_out` are the paths of files that are not made. `counts_content` is whether the budget counts contents, too.
    """

    has_whiteouts = False

    def __init__(
        self,
        lines: Iterable[bytes],
        folder: int,
        first_names: Mapping[int, bytes],
        left_out: Collection[bytes],
        ownership: Ownership,
        budget: Budget,
        *,
        counts_content: bool,
    ) -> None:
        super().__init__((), ownership, budget)
        self._lines = lines
        self._folder = folder
        self._first_names = first_names
        self._left_out = left_out
        self._counts_content = counts_content
        self._number = 0
        self._digest = b""

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries. Raises MachineError where the budget is exceeded, or a line can't be read."""
        for number, path, recorded in numbered_entries(self._lines):
            if recorded.kind is Kind.FILE and path in self._left_out:
                continue
            self._budget.spend(ENTRY_SIZE + (recorded.size if self._counts_content else 0))
            self._number, self._digest = number, recorded.digest
            first = self._first_names.get(number, b"")
            yield _entry(path or b".", recorded, first)

    def put_file(self, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        """Move the content of the last entry to its place in `tree`, and set its metadata. Raises OSError.

        Returns the place, and whether the file has the owners of the image.
        """
        place = tree.locate(entry.path)
        if entry.size:
            os.rename(str(self._number), place.name, src_dir_fd=self._folder, dst_dir_fd=place.directory)
            flags = EXISTING_FILE
        else:
            flags = NEW_FILE
        with closing_descriptor(os.open(place.name, flags, 0o600, dir_fd=place.directory)) as file:
            status = os.fstat(file)
            tree.overrides.digests.set(status.st_ino, self._digest)
            return place, apply_metadata(file, entry, self._ownership, status)


def numbered_entries(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, MtreeEntry]]:
    """Yield the number, the path and the entry of all files in a record; the path of the root is empty.

    Raises MachineError where a line can't be read.
    """
    above: list[bytes] = []
    number = 0
    for entry in parse_entries(lines):
        if entry is None:
            above.pop()
            continue
        path = b"/".join([*above[1:], entry.name]) if above else b""
        yield number, path, entry
        number += 1
        if entry.is_directory:
            above.append(entry.name)


def _entry(path: bytes, recorded: MtreeEntry, first: bytes) -> Entry:
    """Return the entry of an archive for one of the record; a hard link where the file has a `first` name."""
    kind, target = (Kind.HARDLINK, first) if first else (recorded.kind, recorded.target)
    size = recorded.size if kind is Kind.FILE else 0
    owner = (recorded.uid, recorded.gid)
    return Entry(
        path, kind, recorded.mode, *owner, size, recorded.mtime, target, recorded.device, recorded.xattrs, None
    )
