"""Applying a layer to a tree (OCI image-spec, layer.md): entries, whiteouts, opaque whiteouts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from provisioner.errors import MachineError, MalformedImage, ProvisionError, doing, printable
from provisioner.rootfs.archive import Archive, Entry, Kind
from provisioner.rootfs.links import Links
from provisioner.rootfs.notes import Said
from provisioner.rootfs.ownership import Ownership
from provisioner.rootfs.paths import Paths
from provisioner.rootfs.tree import Place, Tree, components, tree_errors
from provisioner.rootfs.xattrs import drop_xattrs, set_xattrs

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS_OWN = (b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk")
"""What AUFS kept for itself and old layers still carry."""
_TARGET_MAX = 4095
ENTRY_SIZE = 4096
"""What an entry, or a directory that is made for one, counts as beside its content: an inode and a place in a block."""


class Unpacker:
    """Applies the layers of an image to a tree, the lowest first.

    `max_size` is the most that they may take, in bytes: all of their archives, holes of sparse files as if they were
    filled, and ENTRY_SIZE for each entry. `links` says what stands in for hard links, and counts it.
    """

    def __init__(
        self, tree: Tree, ownership: Ownership, *, max_size: int = 2**63 - 1, links: Links | None = None
    ) -> None:
        self._tree = tree
        self._ownership = ownership
        self._links = links or Links()
        self._max_size = max_size
        self._size = 0
        self._lower = False
        self._own = Paths()
        self._cleared = Paths()

    def apply(self, chunks: Iterable[bytes]) -> None:
        """Apply the layer whose archive is in `chunks`, which are read to the end.

        Raises MalformedImage and MachineError that name the entry, MachineError for too much, and what `chunks` raise.
        """
        self._own.clear()
        self._cleared.clear()
        archive = Archive(self._counted(chunks))
        for entry in archive:
            try:
                self._apply(entry, archive)
            except (OSError, ProvisionError):
                with doing(printable(entry.path[:300])), tree_errors("write"):
                    raise
        self._count(0)  # the directories of the last entry
        self._lower = True

    def finish(self) -> None:
        """Put symlinks in the place of hard links, which has to wait for the last layer.

        The times of directories have to wait for whatever else is written: Tree.set_times.
        """
        with tree_errors("link"):
            self._links.finish(self._tree, self._tree.notes)

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._count(len(chunk))
            yield chunk

    def _count(self, size: int) -> None:
        """Count what is about to be written. Holes count since copies and archives of the tree may fill them."""
        self._size += size
        if self._size + ENTRY_SIZE * self._tree.made + self._links.made.copied > self._max_size:
            raise too_large(self._max_size)

    def _apply(self, entry: Entry, archive: Archive) -> None:
        holes = 0 if entry.extents is None else entry.size - sum(length for _, length in entry.extents)
        self._count(ENTRY_SIZE + holes)
        if _WHITEOUT in entry.path and self._is_whiteout(entry):
            return
        place = self._make(entry, archive)
        if self._lower:
            self._remember(place.path)

    def _is_whiteout(self, entry: Entry) -> bool:
        """Hide what the entry says is to be hidden; whether that was all."""
        names = components(entry.path)
        if any(name in _AUFS_OWN for name in names):
            return True
        if any(name.startswith(_WHITEOUT) for name in names[:-1]):
            raise MalformedImage("it is below a whiteout")
        if not names[-1].startswith(_WHITEOUT):
            return False
        directory = b"/".join(names[:-1])
        hidden = names[-1][len(_WHITEOUT) :]
        is_opaque = names[-1] == _OPAQUE
        if not is_opaque and (hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT)):
            raise MalformedImage("it is no valid whiteout")
        if self._lower and (real := self._tree.real(directory)) is not None:
            self._clear([real] if is_opaque else self._hide(real + b"/" + hidden))
        return True

    def _hide(self, path: bytes) -> list[bytes]:
        """Remove what lower layers put at `path`; where this one has something there, that is the result instead."""
        place = self._tree.place(path)
        if place.path in self._own:
            return [place.path]
        self._tree.remove(place)
        return []

    def _clear(self, directories: list[bytes]) -> None:
        """Remove what lower layers put into these, and keep what this one did, before the whiteout or behind it."""
        while directories:
            directory = directories.pop()
            if self._cleared.add(directory):  # else all that is in it is this layer's
                for child in self._tree.children(directory):
                    directories += self._hide(directory + b"/" + child)

    def _remember(self, path: bytes) -> None:
        """Note that this layer has `path`, and by that the directories above."""
        while path and self._own.add(path):
            path = path.rpartition(b"/")[0]

    def _make(self, entry: Entry, archive: Archive) -> Place:
        """Make what `entry` says, whatever was there before."""
        tree, kind = self._tree, entry.kind
        if kind is Kind.FILE:
            place, file = tree.file(entry.path)
            try:
                if entry.extents is None:
                    for piece in archive.content():
                        _write(file, piece)
                else:
                    _write_sparse(file, entry, archive)
                self._finish_open(file, entry)
            finally:
                os.close(file)
        elif kind is Kind.DIRECTORY:
            place, directory = tree.directory(entry.path)
            try:
                self._finish_open(directory, entry)
            finally:
                os.close(directory)
        elif kind is Kind.HARDLINK:
            source, place = tree.pair(entry.path, entry.target)
            if place.path != source.path:
                self._links.make(source, place, tree.notes)
        elif kind is Kind.SYMLINK:
            if not 0 < len(entry.target) <= _TARGET_MAX or b"\0" in entry.target:
                raise MalformedImage("it is a symlink to what can't be a path")
            place = tree.free(entry.path)
            os.symlink(entry.target, place.name, dir_fd=place.directory)
            self._finish_named(place, entry)
        else:
            place = tree.free(entry.path)
            self._finish_named(place, entry, self._make_node(place, entry))
        return place

    def _make_node(self, place: Place, entry: Entry) -> bool:
        """Make a FIFO or a device; an empty file stands in for a device where this process may not make one.

        Whether it does.
        """
        if entry.kind is Kind.FIFO:
            os.mkfifo(place.name, 0o600, dir_fd=place.directory)
            return False
        if self._ownership.exact:
            kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
            try:
                os.mknod(place.name, kind | 0o600, os.makedev(*entry.device), dir_fd=place.directory)
                return False
            except PermissionError:  # as root of a user namespace
                pass
        os.mknod(place.name, stat.S_IFREG | 0o600, dir_fd=place.directory)
        return True

    def _finish_open(self, file: int, entry: Entry) -> None:
        """Owners first: changing them clears setuid, setgid and capabilities."""
        given = self._ownership.exact and _given(entry, file)
        mode = self._mode(entry, given)
        said, notes = self._said(entry, mode, given), self._tree.notes
        if said is not None or notes.stale or entry.kind is Kind.DIRECTORY:
            inode = os.fstat(file).st_ino
            if entry.kind is Kind.DIRECTORY:
                notes.times[inode] = entry.mtime
                if (before := notes.get(inode)) is not None:  # a lower layer's
                    drop_xattrs(file, before.xattrs)
            if entry.xattrs:
                set_xattrs(file, entry.xattrs, privileged=self._ownership.exact)
            notes.set(inode, said)
        os.fchmod(file, mode)
        os.utime(file, ns=(entry.mtime, entry.mtime))

    def _finish_named(self, place: Place, entry: Entry, stands_in: bool = False) -> None:
        """The same for what can't be opened; the place was made just now and is ours alone."""
        given = self._ownership.exact and _given(entry, place.name, dir_fd=place.directory, follow_symlinks=False)
        mode = self._mode(entry, given)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(place.name, mode, dir_fd=place.directory)
        os.utime(place.name, ns=(entry.mtime, entry.mtime), dir_fd=place.directory, follow_symlinks=False)
        said = self._said(entry, mode, given, stands_in)
        if said is not None or self._tree.notes.stale:
            self._tree.notes.set(self._tree.state(place).st_ino, said)

    def _mode(self, entry: Entry, given: bool) -> int:
        """The permission bits to set. What stayed root's is not setuid, which would be for another user."""
        mode = self._ownership.mode(entry.kind, entry.mode)
        return mode & ~(stat.S_ISUID | stat.S_ISGID) if self._ownership.exact and not given else mode

    def _said(self, entry: Entry, mode: int, given: bool, stands_in: bool = False) -> Said | None:
        """What the image says and the disk doesn't, where the file that was made has `mode`."""
        told = given or (entry.mode == mode and not entry.uid and not entry.gid)
        if told and not entry.xattrs and not stands_in:
            return None
        device = (entry.kind, *entry.device) if stands_in else None
        return Said(entry.uid, entry.gid, entry.mode, device, entry.xattrs)


def _given(entry: Entry, file: int | bytes, **where: Any) -> bool:
    """Give a file to the owners that the image names; whether this user namespace knows them."""
    try:
        os.chown(file, entry.uid, entry.gid, **where)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def too_large(max_size: int) -> MachineError:
    """The error for an image that would take more than `max_size` bytes."""
    hint = "free some space for it; if you trust it, allow more: --max-size 100G"
    return MachineError(f"the image takes more than the {max_size:,} bytes that it may", hint)


def _write(file: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]


def _write_sparse(file: int, entry: Entry, archive: Archive) -> None:
    """Write the parts of a file that the archive holds to their places, and leave holes between them."""
    os.ftruncate(file, entry.size)
    parts = iter(entry.extents or ())
    offset = left = 0
    for piece in archive.content():
        while piece:
            while not left:
                offset, left = next(parts)
            written = os.pwrite(file, piece[:left], offset)
            piece, offset, left = piece[written:], offset + written, left - written
