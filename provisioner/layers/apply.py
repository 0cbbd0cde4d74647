"""Applies layers to a tree (OCI image-spec, layer.md): entries, whiteouts and opaque whiteouts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from provisioner.archives.fields import TIME_LIMITS
from provisioner.archives.tar import Entry
from provisioner.errors import MalformedImage, ProvisionError
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.seen_paths import SeenPaths
from provisioner.filesystem.xattrs import drop_xattrs
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.reader import StreamedLayer, apply_metadata, entry_errors, try_chown
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.paths import split_path
from provisioner.rootfs.tree import Place, Tree, tree_errors

WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_INTERNAL = b".wh..wh."
"""The beginning of the names of AUFS's internal files, which old layers still contain. They are no files of the image,
but for _OPAQUE."""
_LINKED = b".wh..wh.plnk"
"""AUFS's directory of files with more than one name: the layer has their contents there, and hard links to them."""
_TARGET_MAX = 4095


class LayerApplier:
    """Applies the layers of an image to a tree, the lowest first.

    `budget` limits what they may take; holes count, since a copy or an archive of the tree may fill them. `links`
    creates hard links, or what replaces them where they are refused.
    """

    def __init__(
        self, tree: Tree, ownership: Ownership, *, budget: Budget | None = None, links: Links | None = None
    ) -> None:
        self._tree = tree
        self._ownership = ownership
        self._links = links or Links()
        self._budget = budget or Budget()
        self._counted = self._implied_directories = 0
        self.clamped_times = 0
        """How many entries have a time that can't be kept: after 2262, or after 2038 with a time_t of 32 bits."""
        self._has_lower_layers = False
        self._upper_paths = SeenPaths()
        """The paths that the current layer has put into the tree, from the second layer on."""
        self._cleared_paths = SeenPaths()
        """The directories that contain nothing but files of the current layer."""
        self._has_linked_files = False
        """Whether the current layer has put files into _LINKED."""

    def apply(self, chunks: Iterable[bytes]) -> None:
        """Apply the layer whose archive is in `chunks`, and read them to their end.

        Raises MalformedImage and MachineError that name the entry, MachineError where the budget is exceeded, and what
        iterating over `chunks` raises.
        """
        self.apply_reader(StreamedLayer(chunks, self._ownership, self._budget))

    def apply_reader(self, reader: StreamedLayer) -> None:
        """Apply the layer of `reader`. Raises as `apply` does."""
        self._upper_paths.clear()
        self._cleared_paths.clear()
        for entry in reader:
            try:
                self._apply(entry, reader)
            except (OSError, ProvisionError):
                with entry_errors(entry):
                    raise
        if self._has_linked_files:
            with tree_errors("remove AUFS's own files"):
                self._tree.remove(self._tree.locate(_LINKED))
            self._has_linked_files = False
        reader.finish(self._tree, self._links)
        self._count()
        self._has_lower_layers = True

    def note_merged_layer(self, clamped_times: int) -> None:
        """Apply the next layer above one that was merged into the tree.

        Its `clamped_times` are added; the budget has counted all else of it.
        """
        self.clamped_times += clamped_times
        self._counted, self._implied_directories = self._uncounted(), self._tree.implied_directories
        self._has_lower_layers = True

    def finish(self) -> None:
        """Replace copies by symlinks where `links` says so, after the last layer.

        The times of directories are set later, after all other writes: write_owners.
        """
        with tree_errors("link"):
            self._links.finish(self._tree, self._tree.overrides)

    def _apply(self, entry: Entry, reader: StreamedLayer) -> None:
        if WHITEOUT in entry.path and reader.has_whiteouts and self._apply_whiteout(entry):
            if entry.kind is not Kind.FILE or split_path(entry.path)[:-1] != [_LINKED]:
                return
            self._has_linked_files = True  # they stay until all hard links to them are made
        if entry.mtime in TIME_LIMITS:
            self.clamped_times += 1
        place = self._create(entry, reader)
        if self._has_lower_layers:
            self._add_upper_path(place.path)
        if entry.kind is Kind.HARDLINK or self._tree.implied_directories != self._implied_directories:
            self._count()

    def _count(self) -> None:
        """Count what no archive contains: directories created without an entry, and copies in place of hard links."""
        self._implied_directories = self._tree.implied_directories
        size = self._uncounted()
        if size != self._counted:
            self._budget.spend(size - self._counted)
            self._counted = size

    def _uncounted(self) -> int:
        """Return the bytes so far of what no archive contains."""
        return ENTRY_SIZE * self._tree.implied_directories + self._links.substitutes.copied_bytes

    def _apply_whiteout(self, entry: Entry) -> bool:
        """Remove what a whiteout hides. Returns False if the entry is no whiteout but something to create."""
        names = split_path(entry.path)
        is_opaque = names[-1:] == [_OPAQUE]
        if any(name.startswith(_INTERNAL) for name in (names[:-1] if is_opaque else names)):
            return True
        if any(name.startswith(WHITEOUT) for name in names[:-1]):
            raise MalformedImage("it is below a whiteout")
        if not names or not names[-1].startswith(WHITEOUT):
            return False
        directory = b"/".join(names[:-1])
        hidden = names[-1][len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise MalformedImage("it is no valid whiteout")
        self._hide(directory, None if is_opaque else hidden)
        return True

    def _hide(self, directory: bytes, name: bytes | None) -> None:
        """Remove what lower layers have put at `name` in `directory`; everything in it where there is no name."""
        if self._has_lower_layers and (real := self._tree.resolve(directory)) is not None:
            self._clear([real] if name is None else self._remove_lower(real + b"/" + name))

    def _remove_lower(self, path: bytes) -> list[bytes]:
        """Remove what lower layers have put at `path`.

        If the current layer has put something there, return its path instead: only what is in it may be removed.
        """
        place = self._tree.locate(path)
        if place.path in self._upper_paths:
            return [place.path]
        self._tree.remove(place)
        return []

    def _clear(self, directories: list[bytes]) -> None:
        """Remove from `directories` what lower layers have put there.

        What the current layer has put there stays, whether it came before the whiteout or comes after it.
        """
        while directories:
            directory = directories.pop()
            if self._cleared_paths.add(directory):  # else everything in it is of the current layer
                for child in self._tree.list_directory(directory):
                    directories += self._remove_lower(directory + b"/" + child)

    def _add_upper_path(self, path: bytes) -> None:
        """Remember that the current layer has put something at `path`, and so into all directories above it."""
        while path and self._upper_paths.add(path):
            path = path.rpartition(b"/")[0]

    def _create(self, entry: Entry, reader: StreamedLayer) -> Place:
        """Create what `entry` describes in place of whatever is there, and return its place."""
        tree, kind = self._tree, entry.kind
        if kind is Kind.FILE:
            place, has_owners = reader.put_file(tree, entry)
            if not has_owners or entry.xattrs or tree.overrides.stale:
                self._record_override(place, entry, has_owners)
        elif kind is Kind.DIRECTORY:
            place, directory = tree.open_directory(entry.path)
            try:
                self._apply_metadata(directory, entry)
            finally:
                os.close(directory)
        elif kind is Kind.HARDLINK:
            place = self._link(entry)
        elif kind is Kind.SYMLINK:
            if not 0 < len(entry.target) <= _TARGET_MAX or b"\0" in entry.target:
                raise MalformedImage("it is a symlink to what can't be a path")
            place = tree.locate_free(entry.path)
            os.symlink(entry.target, place.name, dir_fd=place.directory)
            self._apply_metadata_by_name(place, entry)
        else:
            place = tree.locate_free(entry.path)
            self._apply_metadata_by_name(place, entry, self._create_node(place, entry))
        return place

    def _link(self, entry: Entry) -> Place:
        """Make a hard link and return its place."""
        source, place = self._tree.locate_hard_link(entry.path, entry.target)
        if place.path != source.path:
            self._links.make(source, place, self._tree.overrides)
        return place

    def _create_node(self, place: Place, entry: Entry) -> bool:
        """Create a FIFO, or an empty file in place of a device. Returns whether it is such a placeholder.

        An image that has a node of a disk could read and write that of this machine. start.sh shows the usual devices.
        """
        if entry.kind is Kind.FIFO:
            os.mkfifo(place.name, 0o600, dir_fd=place.directory)
            return False
        os.mknod(place.name, stat.S_IFREG | 0o600, dir_fd=place.directory)
        return True

    def _apply_metadata(self, directory: int, entry: Entry) -> None:
        """Set the metadata of an open directory, which a lower layer may have created with other attributes."""
        status, overrides = os.fstat(directory), self._tree.overrides
        inode = status.st_ino
        if (before := overrides.get(inode)) is not None:
            drop_xattrs(directory, before.xattrs)
        overrides.set(inode, self._override_of(entry, apply_metadata(directory, entry, self._ownership, status)))
        overrides.times[inode] = entry.mtime

    def _apply_metadata_by_name(self, place: Place, entry: Entry, is_placeholder: bool = False) -> None:
        """Set the metadata of what can't be opened: a symlink, FIFO or device that was just created at `place`."""
        has_owners = self._ownership.exact and try_chown(
            entry, place.name, dir_fd=place.directory, follow_symlinks=False
        )
        if entry.kind is not Kind.SYMLINK:
            mode = self._ownership.mode(entry.kind, entry.mode, has_owners)
            os.chmod(place.name, mode, dir_fd=place.directory)
        os.utime(place.name, ns=(entry.mtime, entry.mtime), dir_fd=place.directory, follow_symlinks=False)
        self._record_override(place, entry, has_owners, is_placeholder)

    def _record_override(self, place: Place, entry: Entry, has_owners: bool, is_placeholder: bool = False) -> None:
        """Record the metadata of a new file that the file system can't store."""
        metadata = self._override_of(entry, has_owners, is_placeholder)
        if metadata is not None or self._tree.overrides.stale:
            self._tree.overrides.set(self._tree.lstat(place).st_ino, metadata)

    def _override_of(self, entry: Entry, has_owners: bool, is_placeholder: bool = False) -> FileMetadata | None:
        """Return the metadata of a file if the file system couldn't store all of it, else None."""
        is_stored = has_owners or (
            not entry.uid and not entry.gid and entry.mode == self._ownership.mode(entry.kind, entry.mode, has_owners)
        )
        if is_stored and not entry.xattrs and not is_placeholder:
            return None
        device = (entry.kind, *entry.device) if is_placeholder else None
        return FileMetadata(entry.uid, entry.gid, entry.mode, device, entry.xattrs)
