"""Turns links of proot's --link2symlink, which archives of its containers have, into hard links.

For a hard link, proot moves the file to `.l2s.NAME0001.0002`, makes the symlink `.l2s.NAME0001` to that, and symlinks
to this one in place of all hard links. Older versions write `.proot.l2s.` for `.l2s.`. The symlinks have absolute paths
of the machine where the container was.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import NOTHING_THERE, Place, Tree

_PREFIX = re.compile(rb"\.(?:proot\.)?l2s\.", re.DOTALL)
_DATA = re.compile(rb"\.(?:proot\.)?l2s\..*\.\d{4}", re.DOTALL)
"""The name of a file with content."""
_FOLDER = b".l2s"
"""The directory of such files if PROOT_L2S_DIR named one to proot; else they are beside their links."""
_NAMES = 64
"""How many names a target may have: each end of it is looked up."""
_HOPS = 4
"""How many symlinks may lead to the content."""


def is_proot_link(target: bytes) -> bool:
    """Return whether a symlink with this target stands in for a hard link of proot."""
    return bool(_PREFIX.match(target.rpartition(b"/")[2]))


class ProotLinks:
    """The symlinks of proot in `tree`, by their paths, with their targets."""

    def __init__(self, tree: Tree, symlinks: dict[bytes, bytes]) -> None:
        self._tree = tree
        self._symlinks = symlinks
        self._host_root = b""
        """The directory of the other machine that was the root of the container, as soon as it is known."""

    def resolve(self, links: Links) -> None:
        """Replace them by hard links, which `links` makes and counts; those without content stay. Raises OSError."""
        groups: dict[bytes, list[bytes]] = {}
        intermediate: set[bytes] = set()
        for path in self._symlinks:
            name = path.rpartition(b"/")[2]
            if not _PREFIX.match(name) and self._is_there(path):
                content, passed = self._follow(path)
                if content:
                    groups.setdefault(content, []).append(path)
                    intermediate.update(passed)
                else:
                    links.substitutes.lost_links += 1
        for content, paths in groups.items():
            self._link(content, paths, links)
            links.substitutes.resolved_links += len(paths)
        for path in intermediate:
            self._tree.locate_free(path)
        if groups:
            self._remove_folder()

    def _follow(self, path: bytes) -> tuple[bytes, list[bytes]]:
        """Return the path of the content of a symlink, empty where there is none, and of the symlinks between."""
        passed: list[bytes] = []
        for _ in range(_HOPS):
            there = self._find(path, self._symlinks[path])
            if there is None:
                break
            if not self._is_there(there):
                return there, passed
            passed.append(there)
            path = there
        return b"", []

    def _find(self, path: bytes, target: bytes) -> bytes | None:
        """Return the path in the tree that `target`, of the symlink at `path`, has led to on the other machine."""
        for candidate in self._candidates(path, target):
            place = self._place(candidate)
            if place is None:
                continue
            is_content = stat.S_ISREG(self._tree.lstat(place).st_mode) and _DATA.fullmatch(place.name)
            if is_content or self._is_there(place.path):
                if target.endswith(b"/" + candidate):
                    self._host_root = target.removesuffix(candidate)
                return place.path
        return None

    def _is_there(self, path: bytes) -> bool:
        """Return whether one of the symlinks is still at `path`: a later entry may have replaced it."""
        return path in self._symlinks and self._tree.read_link(path) == self._symlinks[path]

    def _candidates(self, path: bytes, target: bytes) -> Iterator[bytes]:
        """Yield the paths in the tree that a target may mean: the longest end of it that is there is the right one."""
        names = [name for name in target.split(b"/") if name]
        if b".." in names or len(names) > _NAMES:  # proot writes none of these
            return
        if self._host_root and target.startswith(self._host_root):
            yield target.removeprefix(self._host_root)
        if not target.startswith(b"/"):
            yield b"/".join([*path.split(b"/")[:-1], *names])
        for start in range(len(names)):
            yield b"/".join(names[start:])

    def _place(self, path: bytes) -> Place | None:
        """Return the place of what is at `path`, None where nothing is."""
        try:
            place = self._tree.locate(path, create=False)
            self._tree.lstat(place)
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None
        return place

    def _link(self, content: bytes, paths: list[bytes], links: Links) -> None:
        """Give the file at `content` the names `paths` in place of its own."""
        first, *others = paths
        source, place = self._tree.locate_hard_link(first, content)
        os.rename(source.name, place.name, src_dir_fd=source.directory, dst_dir_fd=place.directory)
        for path in others:
            links.make(*self._tree.locate_hard_link(path, first), self._tree.overrides)

    def _remove_folder(self) -> None:
        """Remove proot's own directory where it is empty now."""
        place = self._place(_FOLDER)
        if place and stat.S_ISDIR(self._tree.lstat(place).st_mode) and not any(self._tree.list_directory(_FOLDER)):
            self._tree.remove(place)
