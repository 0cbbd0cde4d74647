"""The files of a rootfs as entries of an archive, with the owners and modes that the image has.

Hard links of Termux's proot (`.l2s`) become hard links. Sockets have no type in archives and are left out.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from provisioner.archives.tar import Entry
from provisioner.comparison.changes import is_mount_point, read_mount_points
from provisioner.container.ids import read_ids
from provisioner.container.proot_links import LINK_FOLDER, is_link
from provisioner.errors import PathErrors
from provisioner.exports.owners import OwnerSource
from provisioner.filesystem.content import data_ranges
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor, open_readable
from provisioner.filesystem.kind import DEVICES, KINDS, Kind
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.filesystem.xattrs import access_lists, read_xattrs
from provisioner.ownership.mtree import MtreeEntry, parse_entries, parse_header
from provisioner.ownership.pairing import pair_files
from provisioner.ownership.policy import WITHOUT_ROOT
from provisioner.ownership.record import open_record

_READING = "read a file of the container"
_CHUNK = 1 << 18
_MOST_EXTENTS = 20_000
"""A file with more holes than this many is stored without holes: its map would be too long to be read again."""
_LINKS = os.fsencode(LINK_FOLDER)
_HOPS = 3
"""How many symlinks of proot lead to the content, at most."""


@dataclass
class FilesReport:
    """What of a rootfs an archive has, and what not."""

    files: int = 0
    content: int = 0
    """The bytes of all regular files, with holes."""
    sockets: int = 0
    excluded: int = 0
    lost_links: list[bytes] = field(default_factory=list)
    """Hard links of proot whose content isn't there."""
    changed: list[bytes] = field(default_factory=list)
    """Files that were written to while they were read."""
    vanished: list[bytes] = field(default_factory=list)
    """Files that were removed while others were read."""
    mounted: list[bytes] = field(default_factory=list)


class TreeFile(NamedTuple):
    """An entry, and its content where it is a regular file."""

    entry: Entry
    content: Iterator[bytes]


class _Content(NamedTuple):
    """The place of a regular file's content, which hard links of proot have elsewhere."""

    directory: int
    name: bytes
    stat: os.stat_result


class TreeFiles:
    """The files of an open rootfs, whose record is in the open `folder`.

    `prefix` is put in front of all paths, `exclude` are shell patterns of paths to leave out. With `wanted`, there are
    only these paths. Without `keeps_holes`, holes are zeros. Use it as a context.
    """

    def __init__(
        self,
        rootfs: int,
        folder: int,
        prefix: bytes = b"",
        exclude: Sequence[str] = (),
        *,
        wanted: Container[bytes] | None = None,
        keeps_holes: bool = True,
    ) -> None:
        self.report = FilesReport()
        self.owners = OwnerSource(rootfs)
        self._rootfs = rootfs
        self._folder = folder
        self._prefix = prefix
        self._exclude = encoded_patterns(exclude)
        self._wanted = wanted
        self._keeps_holes = keeps_holes
        self._first_names: dict[tuple[int, int], bytes] = {}
        """The paths of files with several names, by device and inode."""
        self._links = -1
        """The open directory of proot's links."""
        self._mount_points = read_mount_points(folder)
        self._stack = ExitStack()

    def __enter__(self) -> TreeFiles:
        """Open the directory of proot's links, where there is one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._links = self._stack.enter_context(closing_descriptor(os.open(_LINKS, DIRECTORY, dir_fd=self._rootfs)))
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._stack.close()

    def __iter__(self) -> Iterator[TreeFile]:
        """Yield all files in the order of `walk`; the content has to be read before the next is asked for.

        Raises MachineError, also while a content is read; OSError where there is no record.
        """
        with (
            open_record(self._folder) as record,
            PathErrors(_READING) as errors,
        ):
            self._has_owners = self._files_have_owners(record)
            for path, file, entry in self._files(record):
                errors.path = path
                is_wanted = self._wanted is None or path in self._wanted
                if not is_wanted and not file.is_directory:
                    continue
                made = None
                with suppress(FileNotFoundError):
                    made = self._file(path, file, entry)
                if not is_wanted:  # a directory, which had to be asked for its owner
                    continue
                if file.is_mounted:
                    self.report.mounted.append(path)
                elif made is None and stat.S_IFMT(file.stat.st_mode) != stat.S_IFSOCK:
                    self.report.vanished.append(path)
                if made is not None:
                    self.report.files += 1
                    self.report.content += made.entry.size
                    yield made

    def _files(self, record: BinaryIO) -> Iterator[tuple[bytes, WalkedFile, MtreeEntry | None]]:
        """Yield the path of each file that isn't left out, from the rootfs, the file, and its entry in the record."""
        names: list[bytes] = []
        left_out = 0
        for pair in pair_files(parse_entries(record), walk(self._rootfs, closed="open")):
            if left_out:
                left_out += -1 if pair is None else pair[0].is_directory
                continue
            if pair is None:
                names.pop()
                self.owners.leave()
                continue
            file, entry = pair
            path = b"/".join([*names[1:], file.name]) if names else b""
            is_added = bool(names) and entry is None
            if (names and self._is_left_out(path)) or (is_added and self._is_mount_point(path, file)):
                left_out = int(file.is_directory)
                continue
            yield path, file, entry
            if file.is_directory:
                names.append(file.name)

    def _is_mount_point(self, path: bytes, file: WalkedFile) -> bool:
        """Return whether start.sh has made a file for a mount, and wrote that down."""
        return path in self._mount_points and is_mount_point(path, file, self._mount_points)

    def _is_left_out(self, path: bytes) -> bool:
        if path == _LINKS and self._links >= 0:
            return True
        if is_match(path, self._exclude):
            self.report.excluded += 1
            return True
        return False

    def _files_have_owners(self, record: BinaryIO) -> bool:
        """Return whether the files have the owners of the image, or of those who have made them since.

        The record says so; but the files may have been copied by somebody who can't set owners.
        """
        record.readline()
        line = record.readline()
        header = parse_header(line)
        if header.written is None:  # a record of an older version
            record.seek(0)
            return os.fstat(self._rootfs).st_uid == 0
        first = next(parse_entries(record), None)
        record.seek(0)
        has_first_owner = first is not None and os.fstat(self._rootfs).st_uid == first.uid
        return has_first_owner and (header.has_owners or read_ids(self._folder).first is not None)

    def _file(self, path: bytes, file: WalkedFile, known: MtreeEntry | None) -> TreeFile | None:
        """Return the entry and content of a file; None for a socket. Raises FileNotFoundError where it is gone."""
        if file.is_mounted:
            return self._mounted(path, file, known)
        content: _Content | None = _Content(file.directory, file.name, file.stat)
        target = b""
        kind = KINDS.get(stat.S_IFMT(file.stat.st_mode))
        if kind is None:
            self.report.sockets += 1
            return None
        if kind is Kind.SYMLINK:
            target = os.readlink(file.name, dir_fd=file.directory)
            if is_link(target) and self._links >= 0:
                if (linked := self._follow(target)) is None:
                    self.report.lost_links.append(path)
                else:
                    kind, target, content = Kind.FILE, b"", linked
        assert content is not None
        state = content.stat
        if known is not None and not _is_same_kind(known, kind, state):
            known = None
        uid, gid = self._owner(path, file, known)
        mode = self._mode(kind, state, known)
        shown = self._prefix + path if path else self._prefix.rstrip(b"/") or b"."
        entry = Entry(shown, kind, mode, uid, gid, 0, state.st_mtime_ns, target, (0, 0), (), None)
        if file.is_directory:
            self.owners.enter(path, uid, gid)
        return self._with_content(entry, path, content, known)

    def _mounted(self, path: bytes, file: WalkedFile, known: MtreeEntry | None) -> TreeFile | None:
        """Return an entry for a directory where something is mounted, of which nothing is looked at; else None."""
        if not file.is_directory:
            return None
        if known is None or not known.is_directory:
            known = None
        uid, gid = (known.uid, known.gid) if known else self.owners.find(path)
        self.owners.enter(path, uid, gid)
        mode, mtime = (known.mode, known.mtime) if known else (0o755, file.stat.st_mtime_ns)
        xattrs = known.xattrs if known else ()
        entry = Entry(self._prefix + path, Kind.DIRECTORY, mode, uid, gid, 0, mtime, b"", (0, 0), xattrs, None)
        return TreeFile(entry, iter(()))

    def _with_content(self, entry: Entry, path: bytes, content: _Content, known: MtreeEntry | None) -> TreeFile:
        """Return an entry with all that depends on its type."""
        state, kind = content.stat, entry.kind
        if known is not None and known.kind in DEVICES and kind is Kind.FILE:
            return TreeFile(entry._replace(kind=known.kind, device=known.device), iter(()))
        if kind is Kind.CHARACTER or kind is Kind.BLOCK:
            entry = entry._replace(device=(os.major(state.st_rdev), os.minor(state.st_rdev)))
        if kind is not Kind.DIRECTORY and (state.st_nlink > 1 or content.directory == self._links):
            first = self._first_names.setdefault((state.st_dev, state.st_ino), path)
            if first != path:
                return TreeFile(entry._replace(kind=Kind.HARDLINK, target=self._prefix + first), iter(()))
        if kind is Kind.DIRECTORY:
            with closing_descriptor(open_readable(content.directory, content.name, state)) as opened:
                return TreeFile(entry._replace(xattrs=self._xattrs(opened, state, known)), iter(()))
        if kind is Kind.FILE:
            return self._regular(entry, path, content, known)
        return TreeFile(entry, iter(()))

    def _regular(self, entry: Entry, path: bytes, content: _Content, known: MtreeEntry | None) -> TreeFile:
        opened = open_readable(content.directory, content.name, content.stat)
        try:
            state = os.fstat(opened)
            if not stat.S_ISREG(state.st_mode):
                raise FileNotFoundError
            extents = _extents(opened, state) if self._keeps_holes else None
            entry = entry._replace(
                size=state.st_size, extents=extents, xattrs=self._xattrs(opened, state, known), mtime=state.st_mtime_ns
            )
        except BaseException:
            os.close(opened)
            raise
        return TreeFile(entry, self._content(opened, path, state, extents))

    def _content(
        self, opened: int, path: bytes, state: os.stat_result, extents: tuple[tuple[int, int], ...] | None
    ) -> Iterator[bytes]:
        """Yield the bytes of a file as long as it is said to be, and close it; note it if it changed meanwhile."""
        with closing_descriptor(opened), PathErrors(_READING) as errors:
            errors.path = path
            for start, length in extents if extents is not None else ((0, state.st_size),):
                end = start + length
                while start < end and (piece := os.pread(opened, min(_CHUNK, end - start), start)):
                    yield piece
                    start += len(piece)
                if start < end:  # it was cut: what follows would be at the wrong place
                    yield bytes(end - start)
            after = os.fstat(opened)
            if (after.st_size, after.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
                self.report.changed.append(path)

    def _xattrs(self, opened: int, state: os.stat_result, known: MtreeEntry | None) -> tuple[tuple[bytes, bytes], ...]:
        """Return the attributes of a file, and those of the image that it could not get, unless it was changed."""
        found = dict(read_xattrs(opened))
        if known is not None and (state.st_mtime_ns == known.mtime) and not self._has_owners:
            for name, value in known.xattrs:
                if name == b"security.capability" or name.startswith(b"user.") or access_lists([(name, value)]):
                    found.setdefault(name, value)
        return tuple(sorted(found.items()))

    def _owner(self, path: bytes, file: WalkedFile, known: MtreeEntry | None) -> tuple[int, int]:
        if self._has_owners:
            return file.stat.st_uid, file.stat.st_gid
        if known is not None:
            return known.uid, known.gid
        return self.owners.find(path)

    def _mode(self, kind: Kind, state: os.stat_result, known: MtreeEntry | None) -> int:
        mode = stat.S_IMODE(state.st_mode)
        if kind is Kind.SYMLINK:
            return 0o777
        if known is None or self._has_owners or mode not in (known.mode, WITHOUT_ROOT.mode(kind, known.mode)):
            return mode
        return known.mode

    def _follow(self, target: bytes) -> _Content | None:
        """Return where the content is that a link of proot leads to; None where it isn't there."""
        name = os.path.basename(target)
        for _ in range(_HOPS):
            try:
                state = os.stat(name, dir_fd=self._links, follow_symlinks=False)
            except FileNotFoundError:
                return None
            if stat.S_ISREG(state.st_mode):
                return _Content(self._links, name, state)
            if not stat.S_ISLNK(state.st_mode):
                return None
            name = os.path.basename(os.readlink(name, dir_fd=self._links))
        return None


def encoded_patterns(exclude: Sequence[str]) -> list[bytes]:
    """Return shell patterns of paths as `is_match` takes them."""
    return [os.fsencode(pattern.strip("/")) for pattern in exclude]


def is_match(path: bytes, patterns: Sequence[bytes]) -> bool:
    """Return whether one of the patterns is that of a path."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _is_same_kind(known: MtreeEntry, kind: Kind, state: os.stat_result) -> bool:
    """Return whether a file has the kind that the record says. An empty file may stand in for a device."""
    if kind is Kind.FILE and known.kind in DEVICES:
        return not state.st_size
    return known.kind is kind


def _extents(opened: int, state: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Return offsets and lengths of the data of a file with holes; None for one without."""
    if state.st_blocks * 512 >= state.st_size or not state.st_size:
        return None
    try:
        found = tuple(data_ranges(opened, chunk=1 << 62))
    except OSError:  # the file system doesn't tell
        return None
    is_full = found == ((0, state.st_size),)
    return None if is_full or len(found) > _MOST_EXTENTS else found
