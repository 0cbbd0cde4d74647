"""Reads a backup: passes the files of the rootfs on, and takes those that belong to provision.

A backup is hostile input. Only files that are known are taken, all of them data, never anything that runs on this
machine; the same files, packed by another program, do as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from provisioner.archives.tar import Entry
from provisioner.container_files import FOLDER, GENERATED, GENERATED_NAMES, OWNERSHIP_RECORD, ROOTFS, SCRIPT
from provisioner.errors import MalformedImage
from provisioner.exports.backup import DOCUMENTS
from provisioner.filesystem.descriptors import NEW_FILE
from provisioner.filesystem.kind import Kind
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.paths import split_path
from provisioner.terminal.escaping import printable

_ROOTFS, _FOLDER = os.fsencode(ROOTFS), os.fsencode(FOLDER)
_DIRECTORIES = ([_FOLDER], [_FOLDER, os.fsencode(GENERATED)])
"""The names on the way to each directory of provision's."""
_LONGEST = 8 << 20
"""The most bytes of a file of provision's, but for the ownership record."""
NO_BACKUP_HINT = "name a file that provision backup has written"


class BackupReader(StreamedLayer):
    """Yields the files of the rootfs in a backup. Files of `.provision/` are written to the open directory `folder`."""

    def __init__(self, chunks: Iterable[bytes], ownership: Ownership, budget: Budget, folder: int) -> None:
        super().__init__(chunks, ownership, budget)
        self._folder = folder
        self.taken: dict[str, bytes] = {}
        """The content of files of provision's, by their path in the backup."""
        self.has_record = False
        """Whether there was an ownership record, which is written to `folder`."""

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries of the rootfs, with paths from there. Raises MalformedImage for what is no backup."""
        for entry in super().__iter__():
            top, *rest = split_path(entry.path) or [b""]
            if top == _ROOTFS:
                if not rest and entry.kind is not Kind.DIRECTORY:
                    raise _foreign(entry)
                target = self._link_target(entry) if entry.kind is Kind.HARDLINK else entry.target
                yield entry._replace(path=b"/".join(rest), target=target)
            elif entry.kind is Kind.DIRECTORY and (top == b"" or [top, *rest] in _DIRECTORIES):
                continue
            elif entry.kind is Kind.FILE and entry.extents is None:
                self._take([top, *rest], entry)
            else:
                raise _foreign(entry)

    def _link_target(self, entry: Entry) -> bytes:
        top, *rest = split_path(entry.target) or [b""]
        if top != _ROOTFS or not rest:
            raise MalformedImage(f"{printable(entry.path[:300])}: it is a hard link to a file outside of the rootfs")
        return b"/".join(rest)

    def _take(self, names: list[bytes], entry: Entry) -> None:
        """Take a file of provision's. Those that no restored directory needs are left out."""
        path = os.fsdecode(b"/".join(names))
        if path == f"{FOLDER}/{OWNERSHIP_RECORD}":
            self._write_record()
        elif path == SCRIPT or path in _TAKEN:
            if entry.size > _LONGEST:
                raise MalformedImage(f"{printable(path)} has {entry.size} bytes, {_LONGEST} is the most")
            self.taken[path] = b"".join(self._archive.content())
        elif names[0] != _FOLDER:
            raise _foreign(entry)

    def _write_record(self) -> None:
        if self.has_record:
            os.unlink(OWNERSHIP_RECORD, dir_fd=self._folder)
        self.has_record = True
        with open(os.open(OWNERSHIP_RECORD, NEW_FILE, 0o644, dir_fd=self._folder), "wb") as file:
            for piece in self._archive.content():
                file.write(piece)


_TAKEN = {
    *(f"{FOLDER}/{name}" for name in DOCUMENTS),
    *(f"{FOLDER}/{GENERATED}/{name}" for name in GENERATED_NAMES),
}
"""The files of `.provision/` that are taken."""


def _foreign(entry: Entry) -> MalformedImage:
    return MalformedImage(f"it is no backup: {printable(entry.path[:300])} is in it", NO_BACKUP_HINT)


class BackupApplier(LayerApplier):
    """Creates the files of a backup. It has no layers: files that are called like whiteouts are files."""

    lost_owners = 0
    """How many files have an owner in the backup that neither this file system nor the image's record has."""
    devices = 0
    """How many empty files stand for devices of the backup."""

    def _apply_whiteout(self, entry: Entry) -> bool:
        return False

    def _override_of(self, entry: Entry, has_owners: bool, is_placeholder: bool = False) -> FileMetadata | None:
        self.lost_owners += not has_owners and bool(entry.uid or entry.gid)
        self.devices += is_placeholder
        return super()._override_of(entry, has_owners, is_placeholder)
