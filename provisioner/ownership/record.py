"""Who owns what in a tree by its image: written when it is made, and told to fakeroot once more when it was copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import Found, walk
from provisioner.ownership import mtree
from provisioner.ownership.fakeroot import state_line
from provisioner.ownership.mtree import Line
from provisioner.ownership.overrides import FileMetadata, MetadataOverrides
from provisioner.ownership.policy import WITHOUT_ROOT, Ownership

_T = TypeVar("_T", Line, Found)

RECORD = "ownership.mtree"
STATE = "fakeroot.state"

_TYPES = {
    stat.S_IFREG: b"file",
    stat.S_IFDIR: b"dir",
    stat.S_IFLNK: b"link",
    stat.S_IFIFO: b"fifo",
    stat.S_IFCHR: b"char",
    stat.S_IFBLK: b"block",
}
_KINDS = {Kind.CHARACTER: b"char", Kind.BLOCK: b"block"}


def write_owners(folder: Path, root: Path, overrides: MetadataOverrides, ownership: Ownership) -> None:
    """Write the record of the tree at `root`, and the state for fakeroot, into `folder`. Raises OSError."""
    with (folder / RECORD).open("xb") as record, (folder / STATE).open("xb") as state:
        record.write(mtree.HEADER)
        for found in walk(root):
            if found is None:
                record.write(mtree.UP)
                continue
            metadata = overrides.get(found.state.st_ino)
            line = _line(found, metadata, ownership.exact)
            if text := state_line(line, found.state):
                state.write(text)
            if metadata is not None and metadata.xattrs:
                record.write(mtree.xattr_comments(metadata.xattrs))
            record.write(_recorded(line, found))


def _line(found: Found, metadata: FileMetadata | None, exact: bool) -> Line:
    """What the image says of a file: what was noted, else what the disk has, whose owner is nobody's but exactly so."""
    state = found.state
    kind, device = _TYPES[stat.S_IFMT(state.st_mode)], (0, 0)
    if kind in (b"char", b"block"):
        device = (os.major(state.st_rdev), os.minor(state.st_rdev))
    if metadata is not None:
        if metadata.device is not None:
            kind, device = _KINDS[metadata.device[0]], metadata.device[1:]
        return Line(found.name, kind, metadata.mode if kind != b"link" else 0o777, metadata.uid, metadata.gid, device)
    uid, gid = (state.st_uid, state.st_gid) if exact else (0, 0)
    return Line(found.name, kind, stat.S_IMODE(state.st_mode), uid, gid, device)


def _recorded(line: Line, found: Found) -> bytes:
    """The line of the record for a file."""
    state = found.state
    target = os.readlink(found.name, dir_fd=found.directory) if line.type == b"link" else b""
    return mtree.formatted(line, state.st_mtime_ns, size=state.st_size, links=state.st_nlink, target=target)


def remake_state(folder: Path, root: Path) -> int:
    """Write the state for fakeroot anew, for the inodes that the tree at `root` has now; how many files it names.

    What the record doesn't name is root's, as fakeroot has it without a word. A mode that was changed since stays.
    Raises OSError, and MachineError for a record that can't be read.
    """
    count = 0
    new = folder / (STATE + ".new")
    new.unlink(missing_ok=True)  # of a run that was killed, and no link of anybody's
    try:
        with (folder / RECORD).open("rb") as record, new.open("xb") as state:
            for line, found in _pairs(mtree.parsed(record), walk(root)):
                if text := state_line(_now(line, found.state), found.state):
                    state.write(text)
                    count += 1
        new.replace(folder / STATE)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return count


def _now(line: Line, state: os.stat_result) -> Line:
    mode = stat.S_IMODE(state.st_mode)
    kind = Kind.DIRECTORY if line.is_directory else Kind.FILE
    if line.type == b"link" or mode in (line.mode, WITHOUT_ROOT.mode(kind, line.mode)):
        return line
    return line._replace(mode=mode)


def _pairs(record: Iterator[Line | None], tree: Iterator[Found | None]) -> Iterator[tuple[Line, Found]]:
    """What the record and the tree both have, of the same type. Both are in the order of `walk`."""
    depth = 0
    line, found = next(record), next(tree)
    while True:
        if line is None and found is None:
            depth -= 1
            if not depth:
                return
        elif found is not None and (line is None or found.name < line.name):
            found = _behind(tree, found.is_directory)
            continue
        elif line is not None and (found is None or line.name < found.name):
            line = _behind(record, line.is_directory)
            continue
        elif line is not None and found is not None:
            if _matches(line, found):
                yield line, found
            if line.is_directory and found.is_directory:
                depth += 1
            else:
                line, found = _behind(record, line.is_directory), _behind(tree, found.is_directory)
                continue
        line, found = next(record), next(tree)


def _behind(items: Iterator[_T | None], directory: bool) -> _T | None:
    """The next item on the same level, behind all that is in the directory that was just met, if it was one."""
    depth = int(directory)
    while depth:
        item = next(items)
        depth += -1 if item is None else item.is_directory
    return next(items)


def _matches(line: Line, found: Found) -> bool:
    """Whether the file is what the record speaks of. Where a device is meant, an empty file stands in."""
    kind = _TYPES.get(stat.S_IFMT(found.state.st_mode))
    return kind == line.type or (line.type in (b"char", b"block") and kind == b"file" and not found.state.st_size)
