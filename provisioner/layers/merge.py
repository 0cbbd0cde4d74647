"""Merges the tree of a layer that was unpacked on its own onto the tree of the layers below it.

A directory that the tree below doesn't have is moved there as a whole. One that it has is merged child by child, and
anything else replaces what is there. So the work is proportional to where layers meet, not to how many files there are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from provisioner.errors import MalformedImage
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.walk import NAMES_IN_MEMORY, first_names
from provisioner.filesystem.xattrs import drop_xattrs, set_xattrs
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.layer_tree import DependsOnLower, UnpackedLayer
from provisioner.layers.redirect import Redirection
from provisioner.ownership.overrides import NO_TIME
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.moving import move
from provisioner.rootfs.tree import NOTHING_THERE, Tree, tree_errors


class LayerMerger:
    """Merges layers onto `tree`, which is that of the layers below. `links` makes hard links to their files.

    The tree must have a trash directory: while layers are unpacked, no file may get the inode of one that is removed.
    """

    def __init__(self, tree: Tree, ownership: Ownership, links: Links, budget: Budget) -> None:
        self._tree = tree
        self._ownership = ownership
        self._links = links
        self._budget = budget

    def adopt(self, layer: UnpackedLayer) -> None:
        """Take over metadata, links and record of the lowest layer, whose files were unpacked to the tree itself."""
        with tree_errors("unpack"):
            self._tree.overrides.update(layer.overrides)
            self._links.adopt(layer.links)
            self._add_parts(layer)

    def merge(self, root: int, layer: UnpackedLayer) -> bool:
        """Merge the layer that was unpacked to the open directory `root`, which is of no use afterwards.

        Returns False where that would not give what applying the layer in order does; then nothing was changed but in
        `root`. The times of directories are set later: write_owners. Raises MachineError and MalformedImage, CannotMove
        where the layers have to be unpacked again, without trees of their own.
        """
        with tree_errors("merge its tree"), Tree(root) as upper:
            try:
                check = _Check(self._tree)
                redirection = Redirection(layer, upper, self._tree, check.mode)
                created = redirection.run()
                known = check.check(layer)
            except DependsOnLower:
                return False
            self._tree.overrides.update(layer.overrides)
            copied = self._links.substitutes.copied_bytes
            for path, target in layer.hard_links:
                source = self._tree.locate(target, create=False)
                place = upper.locate(path, create=False)
                os.unlink(place.name, dir_fd=place.directory)
                self._links.make(source, place, self._tree.overrides)
                self._tree.discard_lines(path.rpartition(b"/")[0])
            self._budget.spend(self._links.substitutes.copied_bytes - copied)
            self._links.adopt(layer.links)
            for path, only_content in layer.hidden:
                self._hide(path, only_content)
            if not redirection.has_moved:
                self._add_parts(layer)
            merge = _Merge(self._tree, self._ownership, root)
            merge.run()
            self._budget.spend(ENTRY_SIZE * (created - known - merge.implied_directories))
            self._tree.forget_paths()
        return True

    def _add_parts(self, layer: UnpackedLayer) -> None:
        """Add the parts of the record that were written for a layer, all directories of which stay at their paths."""
        if self._tree.record_parts is not None:
            for part in layer.record_parts:
                self._tree.record_parts.add(part)

    def _hide(self, path: bytes, only_content: bool) -> None:
        """Remove what is at `path`, or only what is in the directory there. It may be missing."""
        if not only_content:
            try:
                self._tree.remove(self._tree.locate(path, create=False))
            except FileNotFoundError:
                return
            return
        for name in self._tree.list_directory(path):
            self._tree.remove(self._tree.locate(path + b"/" + name, create=False))


class _Check:
    """Checks that a layer can be merged: that none of its paths leads through symlinks or other files below."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._missing: set[bytes] = set()
        """Paths that don't exist, nor anything below them."""

    def check(self, layer: UnpackedLayer) -> int:
        """Raise DependsOnLower where the layer has to be applied in order.

        Returns how many directories were there below before an entry named them, and were counted all the same.
        """
        for path, only_content in layer.hidden:
            if (mode := self.mode(path)) is not None and only_content and stat.S_ISLNK(mode):
                raise DependsOnLower("an opaque whiteout below a symlink")
        for _, target in layer.hard_links:
            if (mode := self.mode(target)) is None or stat.S_ISDIR(mode):
                raise DependsOnLower("a hard link to what is no file below")
        # `named_later` is a part of `implied`, and Redirection has found no other file below at one of these.
        known = sum(self.mode(path) is not None for path in layer.named_later)
        return 0 if layer.hidden else known

    def mode(self, path: bytes) -> int | None:
        """Return the st_mode of a path, None where it is missing.

        Raises DependsOnLower where a symlink or another file that is no directory is above it.
        """
        if path.rpartition(b"/")[0] in self._missing:
            self._missing.add(path)
            return None
        try:
            place = self._tree.locate(path, create=False)
            if place.path == path:
                return self._tree.lstat(place).st_mode
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
        except MalformedImage as error:
            raise DependsOnLower("too many symlinks") from error
        self._check_above(path)
        self._missing.add(path)
        return None

    def _check_above(self, path: bytes) -> None:
        """Raise DependsOnLower unless all that exists above a path is directories."""
        above = b""
        for name in path.split(b"/")[:-1]:
            above = above + b"/" + name if above else name
            try:
                place = self._tree.locate(above, create=False)
                mode = self._tree.lstat(place).st_mode
            except FileNotFoundError:
                self._missing.add(above)
                return
            if not stat.S_ISDIR(mode):
                raise DependsOnLower("a path that leads through a symlink or another file below")


class _Merge:
    """One walk through a layer's tree and the tree below it at the same time, with one open directory of each."""

    def __init__(self, tree: Tree, ownership: Ownership, root: int) -> None:
        self._tree = tree
        self._overrides = tree.overrides
        self._ownership = ownership
        self._upper = os.open(b".", DIRECTORY, dir_fd=root)
        self._lower = -1
        self.implied_directories = 0
        """The directories that were counted since no entry names them, but that are there below."""

    def run(self) -> None:
        """Move what is in the layer's tree to the tree below, or merge directories that both have."""
        top = self._tree.locate(b"")
        try:
            with closing_descriptor(os.open(top.name, DIRECTORY, dir_fd=top.directory)) as lower:
                self._lower = os.dup(lower)
                self._walk()
        finally:
            os.close(self._upper)
            if self._lower >= 0:
                os.close(self._lower)

    def _walk(self) -> None:
        self._merge_metadata()
        self._tree.discard_lines(b"")
        levels, path = [self._names()], list[bytes]()
        while levels:
            for name in levels[-1]:
                if not self._move(name):
                    self._enter(name)
                    path.append(name)
                    self._tree.discard_lines(b"/".join(path))
                    self.implied_directories += not self._merge_metadata()
                    levels.append(self._names())
                    break
            else:
                levels.pop()
                if levels:
                    path.pop()
                    # Neither of them is moved meanwhile, so that the kernel's `..` is where the walk came from.
                    self._enter(b"..")

    def _names(self) -> Iterator[bytes]:
        """Yield the names in the layer's current directory, which is the same again whenever more are asked for."""
        last, some = b"", [b""]
        while some:
            some = first_names((name for name in names_in(self._upper) if name > last), NAMES_IN_MEMORY)
            yield from some
            last = some[-1] if some else b""

    def _enter(self, name: bytes) -> None:
        for attribute in ("_upper", "_lower"):
            here = getattr(self, attribute)
            setattr(self, attribute, os.open(name, DIRECTORY, dir_fd=here))
            os.close(here)

    def _move(self, name: bytes) -> bool:
        """Move a file or directory, in place of what is there. Returns False where both are directories."""
        try:
            there = os.stat(name, dir_fd=self._lower, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            here = os.stat(name, dir_fd=self._upper, follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode) and stat.S_ISDIR(here.st_mode):
                return False
            self._tree.remove_child(self._lower, name, there)
        move(self._upper, name, self._lower, name)
        return True

    def _merge_metadata(self) -> bool:
        """Set the metadata of the directory below to the layer's. Returns False where the layer has no entry of it."""
        overrides = self._overrides
        here, there = os.fstat(self._upper), os.fstat(self._lower)
        if (mtime := overrides.times[here.st_ino]) == NO_TIME:
            return False
        if (before := overrides.get(there.st_ino)) is not None:
            drop_xattrs(self._lower, before.xattrs)
        metadata = overrides.get(here.st_ino)
        owners = (here.st_uid, here.st_gid)
        has_owners = metadata is None or owners == (metadata.uid, metadata.gid)
        if self._ownership.exact and has_owners and owners != (there.st_uid, there.st_gid):
            os.chown(self._lower, *owners)
        if metadata is not None and metadata.xattrs:
            set_xattrs(self._lower, metadata.xattrs, privileged=self._ownership.exact)
        os.fchmod(self._lower, stat.S_IMODE(here.st_mode))
        overrides.set(there.st_ino, metadata)
        overrides.times[there.st_ino] = mtime
        return True
