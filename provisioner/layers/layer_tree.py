"""Unpacks one layer of an image to a tree of its own, as overlayfs would have it, apart from the layers below it.

What an entry means can depend on lower layers. `UnpackedLayer` records what the merge with their tree needs for that:
directories without an entry, what is hidden, hard links to lower files. `DependsOnLower` is raised for anything else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from provisioner.archives.tar import Entry
from provisioner.errors import MachineError, MalformedImage
from provisioner.filesystem.seen_paths import SeenPaths
from provisioner.filesystem.walk import walk
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.file_writer import FileWriter, NameTaken, SharedTree
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership.overrides import NO_TIME, MetadataOverrides
from provisioner.ownership.parts import RecordPart
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.paths import split_path
from provisioner.rootfs.tree import Place, Tree

_RECORD_SIZE = 4 << 20
"""The most bytes of paths that are recorded of a layer."""
_PATH_SIZE = 64
"""Bytes of memory that a recorded path takes besides its text, about."""


class DependsOnLower(Exception):
    """The layer can't be unpacked apart from those below it: it has to be applied to their tree, in order."""


@dataclass(frozen=True)
class UnpackedLayer:
    """What is known of a layer that was unpacked to a tree of its own. All paths are real paths in that tree."""

    implied: Sequence[bytes]
    """The directories that were created since an entry is below them, a directory before those in it."""
    named_later: Sequence[bytes]
    """Those of them that an entry has named since."""
    hidden: Sequence[tuple[bytes, bool]]
    """What is hidden of lower layers: paths, and whether only what is in the directory there is hidden."""
    hard_links: Sequence[tuple[bytes, bytes]]
    """Hard links to files of lower layers: the path of the link, where an empty file is, and that of the lower file."""
    overrides: MetadataOverrides
    """The metadata of its files that the file system could not store; only directories with an entry have a time."""
    links: Links
    """What stands in for hard links within the layer."""
    clamped_times: int
    """How many entries have a time that can't be kept (see LayerApplier)."""
    record_parts: Sequence[RecordPart] = ()
    """The parts of the ownership record that were written for it."""


class LayerTree(Tree):
    """The tree of one layer. Methods raise DependsOnLower where their result could depend on lower layers."""

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self.implied: list[bytes] = []
        self.named_later: list[bytes] = []
        self.hidden: list[tuple[bytes, bool]] = []
        self.hard_links: dict[bytes, bytes] = {}
        self._around_implied = SeenPaths()
        """The paths of `implied` and of all directories above them."""
        self._hidden_paths = SeenPaths()
        self._recorded = 0

    def hide(self, path: bytes, *, only_content: bool = False) -> None:
        """Record that `path`, or only what is in the directory there, is hidden in lower layers.

        What this tree has at the path stays.
        """
        if self.implied and path in self._around_implied:  # it would get the lower directory's metadata, or not
            raise DependsOnLower("a whiteout of a directory that has no entry")
        self._record(path)
        self._hidden_paths.add(path)
        self.hidden.append((path, only_content))

    def is_hidden(self, path: bytes) -> bool:
        """Return whether something was hidden at a path or above it."""
        names = path.split(b"/")
        return any(b"/".join(names[:count]) in self._hidden_paths for count in range(len(names) + 1))

    def link_to_lower(self, path: bytes, target: bytes) -> Place:
        """Create an empty file in place of a hard link to a lower file, and return its place."""
        names = b"/".join(split_path(path))
        if names == target or target.startswith(names + b"/") or self.is_hidden(target):
            raise DependsOnLower("a hard link to a file of a lower layer that isn't there any more")
        place = self.locate_free(path)
        os.mknod(place.name, stat.S_IFREG | 0o600, dir_fd=place.directory)
        self._record(place.path + target)
        self.hard_links[place.path] = target
        return place

    def remove(self, place: Place) -> None:
        """Remove what is at `place`, a directory with all its content. It may be missing."""
        if self.implied and place.path in self._around_implied:
            raise DependsOnLower("a directory that has no entry is replaced")
        if self.hard_links and (place.path in self.hard_links or self._is_directory(place)):
            raise DependsOnLower("a hard link to a file of a lower layer is replaced")
        super().remove(place)

    def _is_directory(self, place: Place) -> bool:
        try:
            return stat.S_ISDIR(self.lstat(place).st_mode)
        except FileNotFoundError:
            return False

    def _note_existing_directory(self, place: Place, inode: int) -> None:
        if place.path and self.overrides.times[inode] == NO_TIME:
            self._record(place.path)
            self.named_later.append(place.path)

    def _remove_for_directory(self, place: Place) -> None:
        super()._remove_for_directory(place)
        self.hide(place.path)  # what was there has replaced what lower layers have

    def _open_name(self, name: bytes, directory: int, above: Sequence[bytes], create: bool) -> int | bytes:
        count = self.implied_directories
        opened = super()._open_name(name, directory, above, create)
        if isinstance(opened, bytes):
            raise DependsOnLower("an entry below a symlink of its own layer")
        if self.implied_directories != count:
            self._imply(b"/".join([*above, name]))
        return opened

    def _imply(self, path: bytes) -> None:
        """Record that the directory `path` was created without an entry."""
        self._record(path)
        self.implied.append(path)
        while self._around_implied.add(path) and path:
            path = path.rpartition(b"/")[0]

    def _record(self, path: bytes) -> None:
        """Count the bytes of a recorded path. Raises DependsOnLower where they are too many."""
        self._recorded += _PATH_SIZE + len(path)
        if self._recorded > _RECORD_SIZE:
            raise DependsOnLower("too many whiteouts, or directories that have no entry")


class _Applier(LayerApplier):
    """Applies the entries of one layer to its own tree."""

    _tree: LayerTree

    def _hide(self, directory: bytes, name: bytes | None) -> None:
        self._tree.resolve(directory)  # which raises DependsOnLower where that leads through symlinks
        names = split_path(directory)
        self._tree.hide(b"/".join(names if name is None else [*names, name]), only_content=name is None)

    def _link(self, entry: Entry) -> Place:
        tree, target = self._tree, b"/".join(split_path(entry.target))
        try:
            source = tree.locate(target, create=False)
            tree.lstat(source)
        except FileNotFoundError:
            return tree.link_to_lower(entry.path, target)
        if source.path in tree.hard_links:
            if b"/".join(split_path(entry.path)) == source.path:
                return source
            return tree.link_to_lower(entry.path, tree.hard_links[source.path])
        return super()._link(entry)


def unpack_layer(
    reader: StreamedLayer, root: int, ownership: Ownership, budget: Budget, links: Links
) -> UnpackedLayer | None:
    """Unpack the layer of `reader`, which isn't the lowest, to the open empty directory `root`.

    Returns None where the layer depends on those below it, also for whether there is an error in it: then apply it to
    their tree. Raises MachineError.
    """
    with LayerTree(root) as tree:
        applier = _Applier(tree, ownership, budget=budget, links=links)
        try:
            applier.apply_reader(reader)
        except (DependsOnLower, MalformedImage):
            return None
        return UnpackedLayer(
            tree.implied,
            tree.named_later,
            tree.hidden,
            list(tree.hard_links.items()),
            _overrides_of_files(root, tree.overrides),
            links,
            applier.clamped_times,
        )


def unpack_lowest_layer(
    reader: StreamedLayer, root: int, ownership: Ownership, budget: Budget, links: Links
) -> UnpackedLayer:
    """Unpack the lowest layer to the open empty directory `root`. Raises as LayerApplier.apply does."""
    with Tree(root) as tree:
        applier = LayerApplier(tree, ownership, budget=budget, links=links)
        applier.apply_reader(reader)
        overrides = _overrides_of_files(root, tree.overrides)
        return UnpackedLayer((), (), (), (), overrides, links, applier.clamped_times)


def unpack_lowest_layer_with(
    writer: FileWriter, reader: StreamedLayer, root: int, ownership: Ownership, budget: Budget, links: Links
) -> UnpackedLayer | None:
    """Unpack the lowest layer to `root` together with the process of `writer`, which writes some of the files.

    Returns None where there is an error in the layer, or where it has to be applied in order. Raises MachineError.
    """
    with SharedTree(root, writer, budget) as tree:
        applier = LayerApplier(tree, ownership, budget=budget, links=links)
        try:
            reader.share(tree)
            applier.apply_reader(reader)
        except (NameTaken, MalformedImage):
            return None
        except MachineError as error:
            if isinstance(error.__cause__, FileExistsError):  # the other process has just taken the name
                return None
            raise
        overrides = _overrides_of_files(root, tree.overrides)
        clamped_times = applier.clamped_times + writer.clamped_times
        return UnpackedLayer((), (), (), (), overrides, links, clamped_times)


def _overrides_of_files(root: int, overrides: MetadataOverrides) -> MetadataOverrides:
    """Return the overrides of the files that are in a tree, without those of files that were removed from it.

    Files of other trees may have the inodes of these.
    """
    if not overrides.stale:
        return overrides
    found = MetadataOverrides()
    for file in filter(None, walk(root)):
        inode = file.stat.st_ino
        found.set(inode, overrides.get(inode))
        if digest := overrides.digests.get(inode):
            found.digests.set(inode, digest)
        if file.is_directory:
            found.times[inode] = overrides.times[inode]
    return found
