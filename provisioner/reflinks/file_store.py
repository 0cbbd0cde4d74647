"""Collects the contents of an image's files: reflinks of a sibling's files, else from the layers."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from provisioner.comparison.join import join
from provisioner.filesystem.content import copy_data, try_reflink
from provisioner.filesystem.descriptors import ANY_FILE, NEW_READABLE_FILE, closing_descriptor, closing_on_error
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership.digests import hash_file
from provisioner.ownership.mtree import MtreeEntry, parse_entries
from provisioner.reflinks.siblings import Sibling

_FETCHED = "fetched"
_READ_AHEAD, _READ_AHEAD_BYTES = 32, 1 << 20
"""How many clones the kernel reads while an earlier one is hashed, and how much of each."""


class CannotReflink(Exception):
    """A sibling can't be used; the message says why."""


@dataclass
class FileStore:
    """The contents of files, each in a file of the open directory `folder` that has its number in the record."""

    folder: int
    files: int = 0
    """How many are reflinks."""
    first_names: dict[int, bytes] = field(default_factory=dict)
    """The path of the first name of a file with hard links, by the number of each other name."""
    lacking: dict[bytes, list[int]] = field(default_factory=dict)
    """By digest the numbers of the files that the sibling doesn't have any more."""
    lacking_sizes: set[int] = field(default_factory=set)
    """The sizes of these, in bytes."""

    @property
    def fetched(self) -> int:
        """How many files are lacking."""
        return sum(map(len, self.lacking.values()))

    def collect(self, record: BinaryIO, sibling: Sibling) -> None:
        """Clone the files of `sibling` that are as its record says. Raises CannotReflink and OSError.

        A file without a digest can't be verified: then the sibling can't be used.
        """
        names: dict[MtreeEntry, list[_Name]] = {}
        clones: deque[_Clone] = deque()
        try:
            for clone in self._clones(record, sibling, names):
                clones.append(clone)
                if len(clones) > _READ_AHEAD:
                    self._verify(clones.popleft())
            while clones:
                self._verify(clones.popleft())
        finally:
            for left in clones:
                os.close(left.file)
        if self.fetched > self.files:
            raise CannotReflink("most of its files are not as the image has them")
        for entry, same in names.items():
            for group in _groups(same, entry.links):
                self.first_names.update({name.number: group[0].path for name in group[1:]})

    def fetch(self, layer: StreamedLayer) -> None:
        """Take what is lacking from a layer, by its digest. Raises OSError and ProvisionError."""
        for entry in layer:
            if entry.kind is not Kind.FILE or entry.size not in self.lacking_sizes:
                continue
            with closing_descriptor(os.open(_FETCHED, NEW_READABLE_FILE, 0o600, dir_fd=self.folder)) as file:
                digest = layer.write_content(file, entry, is_hashed=True)
                for number in self.lacking.pop(digest, ()):
                    with closing_descriptor(
                        os.open(str(number), NEW_READABLE_FILE, 0o600, dir_fd=self.folder)
                    ) as content:
                        if not try_reflink(file, content):
                            copy_data(file, content)
            os.unlink(_FETCHED, dir_fd=self.folder)

    def _clones(self, record: BinaryIO, sibling: Sibling, names: dict[MtreeEntry, list[_Name]]) -> Iterator[_Clone]:
        """Yield a clone of each file that may be as the record says; note what is lacking, and files with `names`."""
        for number, (path, entry, file) in enumerate(_recorded(record, sibling.rootfs)):
            if entry.links > 1 and not entry.is_directory:
                inode = file.stat.st_ino if file is not None else None
                names.setdefault(entry._replace(name=b""), []).append(_Name(number, path, inode))
            if entry.kind is not Kind.FILE or not entry.size or path in sibling.generated:
                continue
            if not entry.digest:
                raise CannotReflink("its record has not the digests of all files")
            clone = self._clone(number, entry, file) if file is not None else None
            if clone is None:
                self._note_lack(number, entry)
            else:
                yield _Clone(number, entry, clone)

    def _clone(self, number: int, entry: MtreeEntry, file: WalkedFile) -> int | None:
        """Clone a file of the sibling, and return the clone open; None where it can't have the right content.

        The kernel begins to read it: its cache has the original's pages alone. Raises CannotReflink where the file
        system refuses to clone, and OSError where it has no room.
        """
        if not stat.S_ISREG(file.stat.st_mode) or file.stat.st_size != entry.size:
            return None
        try:
            original = os.open(file.name, ANY_FILE, dir_fd=file.directory)
        except OSError:  # it is closed to this user, or something else has come in its place
            return None
        with closing_descriptor(original):
            if not stat.S_ISREG(os.fstat(original).st_mode):
                return None
            clone = os.open(str(number), NEW_READABLE_FILE, 0o600, dir_fd=self.folder)
            with closing_on_error(clone):
                if not try_reflink(original, clone):
                    raise CannotReflink("its files can't be reflinked")
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(clone, 0, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            return clone

    def _verify(self, clone: _Clone) -> None:
        """Compare a clone with the digest in the record, and close it. What differs is lacking. Raises OSError."""
        with closing_descriptor(clone.file):
            if os.fstat(clone.file).st_size == clone.entry.size and hash_file(clone.file) == clone.entry.digest:
                self.files += 1
                return
        os.unlink(str(clone.number), dir_fd=self.folder)
        self._note_lack(clone.number, clone.entry)

    def _note_lack(self, number: int, entry: MtreeEntry) -> None:
        self.lacking.setdefault(entry.digest, []).append(number)
        self.lacking_sizes.add(entry.size)


class _Clone(NamedTuple):
    """A clone that is still to be verified."""

    number: int
    entry: MtreeEntry
    file: int
    """Its descriptor."""


@dataclass(frozen=True)
class _Name:
    """A name of a file that has several."""

    number: int
    path: bytes
    inode: int | None
    """The inode that the sibling has there; None where nothing is."""


def _recorded(record: BinaryIO, rootfs: int) -> Iterator[tuple[bytes, MtreeEntry, WalkedFile | None]]:
    """Yield the path, the entry and the sibling's file for all entries of a record. Raises CannotReflink."""
    try:
        for path, (entry,), file in join([parse_entries(record)], walk(rootfs, closed="skip")):
            if entry is not None:
                yield path, entry, file if file is not None and not file.is_mounted else None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CannotReflink(f"its files can't be read: {error.strerror}") from error


def _groups(names: list[_Name], links: int) -> list[list[_Name]]:
    """Return the names of each file, of names whose files are alike and have `links` names each.

    The record doesn't say which names are of one file: where there is a choice, the sibling does. Raises CannotReflink
    where it doesn't.
    """
    if len(names) == links:
        return [names]
    groups: dict[int | None, list[_Name]] = {}
    for name in names:
        groups.setdefault(name.inode, []).append(name)
    if any(len(group) != links for group in groups.values()) or None in groups:
        raise CannotReflink("its hard links are not those of the image any more")
    return list(groups.values())
