"""Applying a layer to a tree (OCI image-spec, layer.md): entries, whiteouts, opaque whiteouts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from provisioner.errors import MalformedImage, ProvisionError
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.xattrs import drop_xattrs
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.reader import LayerReader, StreamedLayer, apply_metadata, naming, try_chown
from provisioner.layers.seen_paths import SeenPaths
from provisioner.layers.tar import Entry
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import Place, Tree, split_path, tree_errors

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS_OWN = (b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk")
"""What AUFS kept for itself and old layers still carry."""
_TARGET_MAX = 4095


class Unpacker:
    """Applies the layers of an image to a tree, the lowest first.

    `budget` is the most that they may take; holes count, since copies and archives of the tree may fill them. `links`
    says what stands in for hard links.
    """

    def __init__(
        self, tree: Tree, ownership: Ownership, *, budget: Budget | None = None, links: Links | None = None
    ) -> None:
        self._tree = tree
        self._ownership = ownership
        self._links = links or Links()
        self._budget = budget or Budget()
        self._counted = 0
        self._lower = False
        self._upper_paths = SeenPaths()
        self._cleared_paths = SeenPaths()

    def apply(self, chunks: Iterable[bytes]) -> None:
        """Apply the layer whose archive is in `chunks`, which are read to the end.

        Raises MalformedImage and MachineError that name the entry, MachineError for too much, and what `chunks` raise.
        """
        self.apply_reader(StreamedLayer(chunks, self._ownership, self._budget))

    def apply_reader(self, reader: LayerReader) -> None:
        """The same for a layer whose files may be there already."""
        self._upper_paths.clear()
        self._cleared_paths.clear()
        for entry in reader:
            try:
                self._apply(entry, reader)
            except (OSError, ProvisionError):
                with naming(entry):
                    raise
        self._lower = True

    def finish(self) -> None:
        """Put symlinks in the place of hard links, which has to wait for the last layer.

        The times of directories have to wait for whatever else is written: Tree.set_times.
        """
        with tree_errors("link"):
            self._links.finish(self._tree, self._tree.overrides)

    def _apply(self, entry: Entry, reader: LayerReader) -> None:
        if _WHITEOUT in entry.path and self._is_whiteout(entry):
            return
        place = self._make(entry, reader)
        if self._lower:
            self._remember(place.path)
        self._count()

    def _count(self) -> None:
        """Count what no archive says: directories that are made for no entry, copies for links."""
        size = ENTRY_SIZE * self._tree.implied_directories + self._links.substitutes.copied_bytes
        if size != self._counted:
            self._budget.spend(size - self._counted)
            self._counted = size

    def _is_whiteout(self, entry: Entry) -> bool:
        """Hide what the entry says is to be hidden; whether that was all."""
        names = split_path(entry.path)
        if any(name in _AUFS_OWN for name in names):
            return True
        if any(name.startswith(_WHITEOUT) for name in names[:-1]):
            raise MalformedImage("it is below a whiteout")
        if not names[-1].startswith(_WHITEOUT):
            return False
        directory = b"/".join(names[:-1])
        hidden = names[-1][len(_WHITEOUT) :]
        is_opaque = names[-1] == _OPAQUE
        if not is_opaque and (hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT)):
            raise MalformedImage("it is no valid whiteout")
        if self._lower and (real := self._tree.resolve(directory)) is not None:
            self._clear([real] if is_opaque else self._hide(real + b"/" + hidden))
        return True

    def _hide(self, path: bytes) -> list[bytes]:
        """Remove what lower layers put at `path`; where this one has something there, that is the result instead."""
        place = self._tree.locate(path)
        if place.path in self._upper_paths:
            return [place.path]
        self._tree.remove(place)
        return []

    def _clear(self, directories: list[bytes]) -> None:
        """Remove what lower layers put into these, and keep what this one did, before the whiteout or behind it."""
        while directories:
            directory = directories.pop()
            if self._cleared_paths.add(directory):  # else all that is in it is this layer's
                for child in self._tree.list_directory(directory):
                    directories += self._hide(directory + b"/" + child)

    def _remember(self, path: bytes) -> None:
        """Note that this layer has `path`, and by that the directories above."""
        while path and self._upper_paths.add(path):
            path = path.rpartition(b"/")[0]

    def _make(self, entry: Entry, reader: LayerReader) -> Place:
        """Make what `entry` says, whatever was there before."""
        tree, kind = self._tree, entry.kind
        if kind is Kind.FILE:
            place, has_owners = reader.put(tree, entry)
            self._record_override(place, entry, has_owners)
        elif kind is Kind.DIRECTORY:
            place, directory = tree.open_directory(entry.path)
            try:
                self._apply_metadata(directory, entry)
            finally:
                os.close(directory)
        elif kind is Kind.HARDLINK:
            source, place = tree.locate_hard_link(entry.path, entry.target)
            if place.path != source.path:
                self._links.make(source, place, tree.overrides)
        elif kind is Kind.SYMLINK:
            if not 0 < len(entry.target) <= _TARGET_MAX or b"\0" in entry.target:
                raise MalformedImage("it is a symlink to what can't be a path")
            place = tree.locate_free(entry.path)
            os.symlink(entry.target, place.name, dir_fd=place.directory)
            self._finish_named(place, entry)
        else:
            place = tree.locate_free(entry.path)
            self._finish_named(place, entry, self._make_node(place, entry))
        return place

    def _make_node(self, place: Place, entry: Entry) -> bool:
        """Make a FIFO or a device; an empty file stands in for a device where this process may not make one.

        Whether it does.
        """
        if entry.kind is Kind.FIFO:
            os.mkfifo(place.name, 0o600, dir_fd=place.directory)
            return False
        if self._ownership.exact:
            kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
            try:
                os.mknod(place.name, kind | 0o600, os.makedev(*entry.device), dir_fd=place.directory)
                return False
            except PermissionError:  # as root of a user namespace
                pass
        os.mknod(place.name, stat.S_IFREG | 0o600, dir_fd=place.directory)
        return True

    def _apply_metadata(self, directory: int, entry: Entry) -> None:
        """Give an open directory, which may be a lower layer's, what this one says of it."""
        inode, overrides = os.fstat(directory).st_ino, self._tree.overrides
        if (before := overrides.get(inode)) is not None:
            drop_xattrs(directory, before.xattrs)
        overrides.set(inode, self._metadata_of(entry, apply_metadata(directory, entry, self._ownership)))
        overrides.times[inode] = entry.mtime

    def _finish_named(self, place: Place, entry: Entry, is_placeholder: bool = False) -> None:
        """The same for what can't be opened; the place was made just now and is ours alone."""
        has_owners = self._ownership.exact and try_chown(
            entry, place.name, dir_fd=place.directory, follow_symlinks=False
        )
        if entry.kind is not Kind.SYMLINK:
            mode = self._ownership.mode(entry.kind, entry.mode, has_owners)
            os.chmod(place.name, mode, dir_fd=place.directory)
        os.utime(place.name, ns=(entry.mtime, entry.mtime), dir_fd=place.directory, follow_symlinks=False)
        self._record_override(place, entry, has_owners, is_placeholder)

    def _record_override(self, place: Place, entry: Entry, has_owners: bool, is_placeholder: bool = False) -> None:
        """Note what the image says of a new file, where the disk doesn't."""
        metadata = self._metadata_of(entry, has_owners, is_placeholder)
        if metadata is not None or self._tree.overrides.stale:
            self._tree.overrides.set(self._tree.lstat(place).st_ino, metadata)

    def _metadata_of(self, entry: Entry, has_owners: bool, is_placeholder: bool = False) -> FileMetadata | None:
        """What the image says and the disk doesn't of what was made; `given`: it has its owners."""
        told = has_owners or (
            not entry.uid and not entry.gid and entry.mode == self._ownership.mode(entry.kind, entry.mode, has_owners)
        )
        if told and not entry.xattrs and not is_placeholder:
            return None
        device = (entry.kind, *entry.device) if is_placeholder else None
        return FileMetadata(entry.uid, entry.gid, entry.mode, device, entry.xattrs)
