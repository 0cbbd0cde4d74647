"""Second names for files: hard links, and what stands in for them where those are refused, as on Android."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from provisioner.filesystem.xattrs import set_xattrs
from provisioner.image.digest import CHUNK
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.rootfs.tree import NEW_FILE, NOTHING_THERE, Place, Tree

Substitute = Literal["auto", "copy", "symlink"]
"""What stands in for a hard link: a reflink where the file system has them, else a copy or a relative symlink; with
`copy` always a copy."""

_FICLONE = getattr(fcntl, "FICLONE", 0x40049409)
_NO_LINKS = (errno.EACCES, errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Substitutes:
    """How many files stand in for hard links, and the bytes that were written for copies."""

    copies: int = 0
    copied: int = 0
    reflinks: int = 0
    symlinks: int = 0


class Links:
    """Makes second names.

    Symlinks take the place of copies in `finish`, when the tree is whole: until then an upper layer may replace or hide
    what they would lead to, which leaves a hard link as it is.
    """

    def __init__(self, substitute: Substitute = "auto") -> None:
        self.made = Substitutes()
        self._substitute = substitute
        self._copies: dict[bytes, tuple[bytes, int]] = {}
        """Where copies are, what they are copies of, and their size in bytes."""

    def make(self, source: Place, place: Place, overrides: MetadataOverrides) -> None:
        """Give what is at `source`, no directory, the second name `place`, which is free. Raises OSError."""
        if _linked(source, place):
            return
        state = _state(source)
        if stat.S_ISREG(state.st_mode):
            written = self._duplicate(source, place)
            if self._substitute == "symlink" and written is not None:
                first, _ = self._copies.get(source.path, (source.path, 0))
                self._copies[place.path] = first, written
        elif stat.S_ISLNK(state.st_mode):
            os.symlink(os.readlink(source.name, dir_fd=source.directory), place.name, dir_fd=place.directory)
        else:
            os.mknod(place.name, state.st_mode, state.st_rdev, dir_fd=place.directory)
        _resemble(place, state)
        metadata = overrides.get(state.st_ino)
        if metadata is not None and metadata.xattrs and stat.S_ISREG(state.st_mode):
            with open(os.open(place.name, _READ, dir_fd=place.directory), "rb") as copy:
                set_xattrs(copy.fileno(), metadata.xattrs, privileged=os.geteuid() == 0)
        overrides.set(_state(place).st_ino, metadata)

    def finish(self, tree: Tree, overrides: MetadataOverrides) -> None:
        """Put symlinks in the place of copies that are still the same as what they are copies of. Raises OSError."""
        for path, (first, written) in self._copies.items():
            directory = posixpath.dirname(path)
            try:
                source, place = tree.place(first, create=False), tree.place(path, create=False)
                if (source.path, place.path) != (first, path) or not _same(source, place, overrides):
                    continue
            except OSError as error:
                if error.errno not in NOTHING_THERE:
                    raise
                continue
            state = _state(place)
            metadata = overrides.get(state.st_ino)
            tree.remove(place)
            os.symlink(posixpath.relpath(b"/" + first, b"/" + directory), place.name, dir_fd=place.directory)
            _resemble(place, state)
            overrides.set(_state(place).st_ino, metadata)
            self.made.copies -= 1
            self.made.copied -= written
            self.made.symlinks += 1

    def _duplicate(self, source: Place, place: Place) -> int | None:
        """Make a file with the same content; the bytes that were written, None where it shares them."""
        with (
            open(os.open(source.name, _READ, dir_fd=source.directory), "rb") as original,
            open(os.open(place.name, NEW_FILE, 0o600, dir_fd=place.directory), "wb") as copy,
        ):
            if self._substitute != "copy" and _reflinked(original.fileno(), copy.fileno()):
                self.made.reflinks += 1
                return None
            written = _copied(original.fileno(), copy.fileno())
        self.made.copies += 1
        self.made.copied += written
        return written


def _linked(source: Place, place: Place) -> bool:
    """Make a hard link; whether that is allowed here."""
    if not hasattr(os, "link"):  # Python has none on Termux
        return False
    try:
        os.link(source.name, place.name, src_dir_fd=source.directory, dst_dir_fd=place.directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _reflinked(original: int, copy: int) -> bool:
    """Let a file share the blocks of another (ioctl_ficlone(2)); whether the file system can."""
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError:  # whatever it is, a copy shows it once more
        return False
    return True


def _copied(original: int, copy: int) -> int:
    """Copy what a file holds to a new one, and leave holes where it has some; the bytes that were written."""
    os.ftruncate(copy, os.fstat(original).st_size)
    count = 0
    for offset, size in _pieces(original):
        piece = os.pread(original, size, offset)
        while piece:
            written = os.pwrite(copy, piece, offset)
            piece, offset, count = piece[written:], offset + written, count + written
    return count


def _pieces(file: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of what a file holds between its holes (lseek(2)), in pieces that fit into memory."""
    size = os.fstat(file).st_size
    end = 0
    while end < size:
        try:
            at = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # a hole up to the end
        end = os.lseek(file, at, os.SEEK_HOLE)
        yield from ((offset, min(CHUNK, end - offset)) for offset in range(at, end, CHUNK))


def _state(place: Place) -> os.stat_result:
    return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)


def _resemble(place: Place, state: os.stat_result) -> None:
    """Give what was made at `place` just now the owners, mode and time of what it stands in for."""
    if os.geteuid() == 0:
        os.chown(place.name, state.st_uid, state.st_gid, dir_fd=place.directory, follow_symlinks=False)
    if not stat.S_ISLNK(_state(place).st_mode):
        os.chmod(place.name, stat.S_IMODE(state.st_mode), dir_fd=place.directory)
    times = (state.st_mtime_ns, state.st_mtime_ns)
    os.utime(place.name, ns=times, dir_fd=place.directory, follow_symlinks=False)


def _same(source: Place, place: Place, overrides: MetadataOverrides) -> bool:
    """Whether two files are still alike in content, holes too, owners and mode."""
    one, other = _state(source), _state(place)
    if not (stat.S_ISREG(one.st_mode) and stat.S_ISREG(other.st_mode)):
        return False
    alike = [
        (state.st_mode, state.st_uid, state.st_gid, state.st_size, overrides.get(state.st_ino))
        for state in (one, other)
    ]
    if alike[0] != alike[1]:
        return False
    with (
        open(os.open(source.name, _READ, dir_fd=source.directory), "rb") as first,
        open(os.open(place.name, _READ, dir_fd=place.directory), "rb") as second,
    ):
        here, there = first.fileno(), second.fileno()
        return all(
            piece == other and os.pread(here, piece[1], piece[0]) == os.pread(there, piece[1], piece[0])
            for piece, other in zip_longest(_pieces(here), _pieces(there))
        )
