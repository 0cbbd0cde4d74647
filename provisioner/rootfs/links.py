"""Hard links, and what stands in for them where they are refused, as on Android."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from provisioner.filesystem.content import copy_data, data_ranges, try_reflink
from provisioner.filesystem.descriptors import EXISTING_FILE, NEW_FILE
from provisioner.filesystem.xattrs import set_xattrs
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.rootfs.tree import NOTHING_THERE, Place, Tree

Substitute = Literal["auto", "copy", "symlink"]
"""What stands in for a hard link.

`auto`: a reflink where the file system has them, else a copy; `symlink`: a reflink, else a relative symlink; `copy`:
always a copy.
"""

_NO_LINKS = (errno.EACCES, errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass
class Substitutes:
    """How many files stand in for hard links."""

    copies: int = 0
    copied_bytes: int = 0
    """Bytes that were written for the copies."""
    reflinks: int = 0
    symlinks: int = 0
    resolved_links: int = 0
    """How many of proot's symlinks in place of hard links were resolved (see proot_links)."""
    lost_links: int = 0
    """How many of those have no content, and stay symlinks."""


class Links:
    """Makes hard links, and their substitutes where the kernel refuses them.

    Symlinks take the place of copies in `finish`, when all layers are applied: until then an upper layer may replace or
    hide the file that they would lead to, which doesn't affect the other names of a hard link.
    """

    def __init__(self, substitute: Substitute = "auto") -> None:
        self.substitutes = Substitutes()
        """The files that stand in for hard links so far."""
        self._substitute = substitute
        self._copies: dict[bytes, tuple[bytes, int]] = {}
        """By the path of each copy: the path of the file that was copied, and the bytes that were written."""

    def make(self, source: Place, place: Place, overrides: MetadataOverrides) -> None:
        """Link the file at `source`, which is no directory, to the free `place`. Raises OSError."""
        if _try_link(source, place):
            return
        status = _lstat(source)
        if stat.S_ISREG(status.st_mode):
            written = self._clone(source, place)
            if self._substitute == "symlink" and written is not None:
                first, _ = self._copies.get(source.path, (source.path, 0))
                self._copies[place.path] = first, written
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source.name, dir_fd=source.directory), place.name, dir_fd=place.directory)
        else:
            os.mknod(place.name, status.st_mode, status.st_rdev, dir_fd=place.directory)
        _apply_status(place, status)
        metadata = overrides.get(status.st_ino)
        if metadata is not None and metadata.xattrs and stat.S_ISREG(status.st_mode):
            with open(os.open(place.name, EXISTING_FILE, dir_fd=place.directory), "rb") as copy:
                set_xattrs(copy.fileno(), metadata.xattrs, privileged=os.geteuid() == 0)
        inode = _lstat(place).st_ino
        overrides.set(inode, metadata)
        overrides.digests.copy(status.st_ino, inode)

    def empty(self) -> Links:
        """Return an object for another tree, which makes the same kind of substitutes and has made none yet."""
        return Links(self._substitute)

    @property
    def has_copies(self) -> bool:
        """Return whether there are copies that symlinks may replace, so that their paths must stay."""
        return bool(self._copies)

    def adopt(self, other: Links) -> None:
        """Take over the substitutes of another tree, all files of which are going to be in this one, at their paths."""
        self._copies.update(other._copies)
        counted, more = self.substitutes, other.substitutes
        counted.copies += more.copies
        counted.copied_bytes += more.copied_bytes
        counted.reflinks += more.reflinks
        counted.symlinks += more.symlinks
        counted.resolved_links += more.resolved_links
        counted.lost_links += more.lost_links

    def finish(self, tree: Tree, overrides: MetadataOverrides) -> None:
        """Replace the copies that are still equal to the copied file by symlinks to it. Raises OSError."""
        for path, (first, written) in self._copies.items():
            directory = posixpath.dirname(path)
            try:
                source, place = tree.locate(first, create=False), tree.locate(path, create=False)
                if (source.path, place.path) != (first, path) or not _is_equal(source, place, overrides):
                    continue
            except OSError as error:
                if error.errno not in NOTHING_THERE:
                    raise
                continue
            status = _lstat(place)
            metadata = overrides.get(status.st_ino)
            tree.remove(place)
            os.symlink(posixpath.relpath(b"/" + first, b"/" + directory), place.name, dir_fd=place.directory)
            _apply_status(place, status)
            overrides.set(_lstat(place).st_ino, metadata)
            self.substitutes.copies -= 1
            self.substitutes.copied_bytes -= written
            self.substitutes.symlinks += 1

    def _clone(self, source: Place, place: Place) -> int | None:
        """Reflink or copy a file. Return the number of bytes that were written, or None for a reflink."""
        with (
            open(os.open(source.name, EXISTING_FILE, dir_fd=source.directory), "rb") as original,
            open(os.open(place.name, NEW_FILE, 0o600, dir_fd=place.directory), "wb") as copy,
        ):
            if self._substitute != "copy" and try_reflink(original.fileno(), copy.fileno()):
                self.substitutes.reflinks += 1
                return None
            written = copy_data(original.fileno(), copy.fileno())
        self.substitutes.copies += 1
        self.substitutes.copied_bytes += written
        return written


def _try_link(source: Place, place: Place) -> bool:
    """Make a hard link and return True, or return False where that is refused."""
    if not hasattr(os, "link"):  # Python has none on Termux
        return False
    try:
        os.link(source.name, place.name, src_dir_fd=source.directory, dst_dir_fd=place.directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _lstat(place: Place) -> os.stat_result:
    return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)


def _apply_status(place: Place, status: os.stat_result) -> None:
    """Set the owners, mode and time of a new file to those of the file that it stands in for."""
    if os.geteuid() == 0:
        with suppress(PermissionError):  # without CAP_CHOWN all files have one owner
            os.chown(place.name, status.st_uid, status.st_gid, dir_fd=place.directory, follow_symlinks=False)
    if not stat.S_ISLNK(_lstat(place).st_mode):
        os.chmod(place.name, stat.S_IMODE(status.st_mode), dir_fd=place.directory)
    times = (status.st_mtime_ns, status.st_mtime_ns)
    os.utime(place.name, ns=times, dir_fd=place.directory, follow_symlinks=False)


def _is_equal(source: Place, place: Place, overrides: MetadataOverrides) -> bool:
    """Return whether two regular files have the same content, holes, owners, mode and overrides."""
    one, other = _lstat(source), _lstat(place)
    if not (stat.S_ISREG(one.st_mode) and stat.S_ISREG(other.st_mode)):
        return False
    first, second = [
        (status.st_mode, status.st_uid, status.st_gid, status.st_size, overrides.get(status.st_ino))
        for status in (one, other)
    ]
    return first == second and _have_equal_content(source, place)


def _have_equal_content(source: Place, place: Place) -> bool:
    with (
        open(os.open(source.name, EXISTING_FILE, dir_fd=source.directory), "rb") as first,
        open(os.open(place.name, EXISTING_FILE, dir_fd=place.directory), "rb") as second,
    ):
        here, there = first.fileno(), second.fileno()
        return all(
            span == other and os.pread(here, span[1], span[0]) == os.pread(there, span[1], span[0])
            for span, other in zip_longest(data_ranges(here), data_ranges(there))
        )
