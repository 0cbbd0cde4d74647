"""The files of a directory tree, in a form that tests compare."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners
from provisioner.rootfs.tree import Tree


@dataclass(frozen=True)
class Entry:
    """A path of a tree. Fields that don't apply to its type are empty, so that trees compare by ==."""

    type: str  # a letter as in `find -type`: f d l p c b s
    mode: int  # permission bits with setuid, setgid and sticky; 0 for symlinks
    owner: tuple[int, int]
    target: str = ""  # of a symlink
    sha256: str = ""  # of a file's content
    same_as: str = ""  # the first path of the same inode, where there are several
    device: int = 0
    mtime: int = 0  # in nanoseconds


_TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFSOCK: "s",
}


def tree_of(root: Path) -> dict[str, Entry]:
    """Return all paths below `root`, relative to it and sorted; `.` is the root. Symlinks are not followed."""
    seen: dict[tuple[int, int], str] = {}
    tree: dict[str, Entry] = {}
    for path in [root, *sorted(_below(root))]:
        name, found = str(path.relative_to(root)), path.lstat()
        kind = _TYPES[stat.S_IFMT(found.st_mode)]
        first = seen.setdefault((found.st_dev, found.st_ino), name)
        tree[name] = Entry(
            type=kind,
            mode=0 if kind == "l" else stat.S_IMODE(found.st_mode),
            owner=(found.st_uid, found.st_gid),
            target=os.readlink(path) if kind == "l" else "",
            sha256=sha256_of(path) if kind == "f" else "",
            same_as=first if first != name else "",
            device=found.st_rdev,
            mtime=found.st_mtime_ns,
        )
    return tree


def _below(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        yield from (Path(directory, name) for name in directories + files)


def set_times(tree: Tree) -> None:
    """Set the times of directories as the last step of the main job does, which writes the record of owners."""
    with tempfile.TemporaryDirectory() as folder:
        write_owners(Path(folder), tree._root, tree.overrides, Ownership(exact=False))


def make_deep(directory: Path, levels: int = 1500) -> None:
    """Create a directory `d` below `directory`, with another one in it, and so on: too deep for any path."""
    here = os.open(directory, DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
