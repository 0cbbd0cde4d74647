"""Moves what a layer has below symlinks of lower layers to where these lead, in the tree of the layer.

A layer may have `lib/x` where a lower layer has a symlink from lib to usr/lib: its own tree has a directory lib, which
no entry names, and has to have usr/lib/x. DependsOnLower is raised where the order of the entries would matter.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import names_in
from provisioner.layers.layer_tree import DependsOnLower, UnpackedLayer
from provisioner.ownership.overrides import NO_TIME
from provisioner.rootfs.moving import move
from provisioner.rootfs.tree import Tree

_LINKS = 40
"""How many symlinks are followed for a layer, as in the kernel for a path."""


class Redirection:
    """Follows symlinks of the tree `lower` for a layer that was unpacked to the tree `upper`.

    `lower_mode` returns the st_mode of a path of `lower`, None where it is missing. It raises DependsOnLower where a
    symlink or another file that is no directory is above it.
    """

    def __init__(
        self, layer: UnpackedLayer, upper: Tree, lower: Tree, lower_mode: Callable[[bytes], int | None]
    ) -> None:
        self._layer = layer
        self._upper = upper
        self._lower = lower
        self._lower_mode = lower_mode
        self._moved: dict[bytes, bytes] = {}
        """The new path of each directory whose content was moved."""

    @property
    def has_moved(self) -> bool:
        """Return whether anything was moved."""
        return bool(self._moved)

    def run(self) -> int:
        """Move everything. Returns how many directories were created for that, less those that were removed."""
        created = self._upper.implied_directories
        removed = 0
        for path in self._layer.implied:
            mode = self._lower_mode(place := self._find(path))
            if mode is not None and stat.S_ISLNK(mode):
                self._check_order_does_not_matter()
                target = self._follow(place)
                self._upper.make_directory(target)
                removed += self._move_content(place, target)
                self._moved[place] = target
            elif mode is not None and not stat.S_ISDIR(mode):
                raise DependsOnLower("a directory that has no entry is another file below")
        return self._upper.implied_directories - created - removed

    def _find(self, path: bytes) -> bytes:
        """Return where the file is now that was unpacked to `path`."""
        for _ in range(_LINKS):
            head, tail = path, b""
            while head and head not in self._moved:
                head, _, name = head.rpartition(b"/")
                tail = b"/" + name + tail
            if not head:
                return path
            path = self._moved[head] + tail
        raise DependsOnLower("too many symlinks")

    def _check_order_does_not_matter(self) -> None:
        layer = self._layer
        if layer.hidden or layer.hard_links or layer.named_later or layer.links.has_copies:
            raise DependsOnLower("an entry below a symlink of a lower layer")
        if len(self._moved) == _LINKS:
            raise DependsOnLower("too many symlinks")

    def _follow(self, path: bytes) -> bytes:
        """Return where the symlink at `path` of the lower tree leads, through directories that neither tree changes."""
        target = self._lower.read_link(path) or b""
        names = [] if target.startswith(b"/") else path.split(b"/")[:-1]
        for name in target.split(b"/"):
            if name == b"..":
                names = names[:-1]
            elif name not in (b"", b"."):
                names.append(name)
                here = b"/".join(names)
                mode = self._lower_mode(here)
                if mode is None or not stat.S_ISDIR(mode) or not self._may_be_directory(here):
                    raise DependsOnLower("an entry below a symlink of a lower layer that leads to no directory")
        if not names:
            raise DependsOnLower("an entry below a symlink of a lower layer to the root")
        return b"/".join(names)

    def _may_be_directory(self, path: bytes) -> bool:
        """Return whether the layer has a directory at `path`, or nothing."""
        try:
            place = self._upper.locate(path, create=False)
            return place.path == path and stat.S_ISDIR(self._upper.lstat(place).st_mode)
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return False

    def _move_content(self, source: bytes, target: bytes) -> int:
        """Move what is in the directory `source` to `target`, and remove it. Returns how many were removed."""
        removed, pending = 0, [(source, target)]
        emptied = []
        while pending:
            source, target = pending.pop()
            with closing_descriptor(self._open(source)) as here, closing_descriptor(self._open(target)) as there:
                pending += [
                    (source + b"/" + name, target + b"/" + name)
                    for name in names_in(here)
                    if self._move(name, here, there)
                ]
            emptied.append(source)
        for path in reversed(emptied):
            place = self._upper.locate(path, create=False)
            os.rmdir(place.name, dir_fd=place.directory)
            removed += 1
        self._upper.forget_paths()
        return removed

    def _open(self, path: bytes) -> int:
        place = self._upper.locate(path, create=False)
        return os.open(place.name, DIRECTORY, dir_fd=place.directory)

    def _move(self, name: bytes, here: int, there: int) -> bool:
        """Move a file. Returns whether it is a directory that is there as well, whose content has to be moved."""
        try:
            existing = os.stat(name, dir_fd=there, follow_symlinks=False)
        except FileNotFoundError:
            move(here, name, there, name)
            return False
        state = os.stat(name, dir_fd=here, follow_symlinks=False)
        is_implied = self._layer.overrides.times[state.st_ino] == NO_TIME
        if stat.S_ISDIR(existing.st_mode) and stat.S_ISDIR(state.st_mode) and is_implied:
            return True
        raise DependsOnLower("two entries of a layer that lower symlinks make one")
