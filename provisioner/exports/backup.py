"""Writes a backup of a provisioned directory: a tar archive of `.provision/`, `start.sh` and `rootfs/`, in that order.

Left out is what belongs to this machine, to processes and to inodes; `restore` makes it anew. The last entry names
`.provision/` once more, with the SHA-256 of all bytes before it in a comment, so that a backup that was cut short or
damaged is recognised.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from provisioner.archives.fields import BLOCK
from provisioner.archives.tar import Entry
from provisioner.archives.writer import END, ArchiveWriter
from provisioner.container.access import open_rootfs
from provisioner.container.opened import OpenedContainer
from provisioner.container_files import (
    CONFIG,
    FOLDER,
    GENERATED,
    IDS,
    MANIFEST,
    MOUNT_POINTS,
    OWNERSHIP_RECORD,
    RECORD,
    ROOTFS,
    SCRIPT,
)
from provisioner.exports.owners import OwnerSource
from provisioner.exports.tree_files import FilesReport, TreeFiles
from provisioner.filesystem.descriptors import ANY_FILE, DIRECTORY, closing_descriptor
from provisioner.filesystem.kind import Kind

DOCUMENTS = (RECORD, MANIFEST, CONFIG, OWNERSHIP_RECORD, IDS, MOUNT_POINTS)
"""The files of FOLDER that a backup has, and those in GENERATED."""

_COMMENT = b"provision backup 1 sha256:"
TAIL = 3 * BLOCK + len(END)
"""The bytes of the last entry and of the end of the archive."""
_CHUNK = 1 << 18


def write_backup(
    container: OpenedContainer, write: Callable[[bytes], None], exclude: Sequence[str] = ()
) -> tuple[FilesReport, OwnerSource]:
    """Write the backup of a container by the function `write`.

    `exclude` are shell patterns of paths in the container. Returns what the backup has of the rootfs, and where the
    owners are from that the image doesn't know. Raises OSError, MachineError and what `write` raises.
    """
    hasher = hashlib.sha256()

    def write_hashed(data: bytes) -> None:
        hasher.update(data)
        write(data)

    writer = ArchiveWriter(write_hashed)
    writer.add(_directory_entry(FOLDER))
    for name in DOCUMENTS:
        _add_file(writer, container.folder, name, f"{FOLDER}/{name}", 0o644)
    _add_generated(writer, container.folder)
    _add_file(writer, container.top, SCRIPT, SCRIPT, 0o755)
    with (
        closing_descriptor(open_rootfs(container.folder)) as rootfs,
        TreeFiles(rootfs, container.folder, os.fsencode(f"{ROOTFS}/"), exclude) as files,
    ):
        for file in files:
            writer.add(file.entry, file.content)
        report, owners = files.report, files.owners
    writer.add(_directory_entry(FOLDER), comment=_COMMENT + hasher.hexdigest().encode())
    writer.finish()
    return report, owners


class DigestCheck:
    """Passes the bytes of a backup on, and compares them with the digest in its comment at the end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._hasher = hashlib.sha256()
        self._tail = b""
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes."""
        for chunk in self._chunks:
            held = self._tail + chunk
            self._hasher.update(held[:-TAIL])
            self._tail = held[-TAIL:]
            self._size += len(chunk)
            yield chunk

    @property
    def has_digest(self) -> bool:
        """Return whether there is a digest: archives that other programs have made of the same files have none."""
        return self._tail[BLOCK:].startswith(b"%d comment=%s" % (len(self._comment), _COMMENT))

    @property
    def matches(self) -> bool:
        """Return whether the digest is that of the bytes."""
        return self._tail[BLOCK : 2 * BLOCK] == self._comment.ljust(BLOCK, b"\0")

    @property
    def has_end(self) -> bool:
        """Return whether the end of the archive is there, which one that was cut short lacks."""
        is_whole = not self._size % BLOCK and self._size > TAIL
        return is_whole and not self._tail[-len(END) :].strip(b"\0")

    @property
    def _comment(self) -> bytes:
        text = b" comment=" + _COMMENT + self._hasher.hexdigest().encode() + b"\n"
        return b"%d" % (len(text) + 3) + text


def _directory_entry(path: str) -> Entry:
    return Entry(os.fsencode(path), Kind.DIRECTORY, 0o755, 0, 0, 0, 0, b"", (0, 0), (), None)


def _add_file(writer: ArchiveWriter, directory: int, name: str, path: str, mode: int) -> None:
    """Add a regular file, if there is one. Raises OSError."""
    try:
        opened = os.open(name, ANY_FILE, dir_fd=directory)
    except FileNotFoundError:
        return
    with closing_descriptor(opened):
        state = os.fstat(opened)
        if stat.S_ISREG(state.st_mode):
            entry = Entry(
                os.fsencode(path), Kind.FILE, mode, 0, 0, state.st_size, state.st_mtime_ns, b"", (0, 0), (), None
            )
            writer.add(entry, iter(lambda: os.read(opened, _CHUNK), b""))


def _add_generated(writer: ArchiveWriter, folder: int) -> None:
    """Add what start.sh compares with files of the rootfs. Raises OSError."""
    try:
        opened = os.open(GENERATED, DIRECTORY, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with closing_descriptor(opened):
        path = f"{FOLDER}/{GENERATED}"
        writer.add(_directory_entry(path))
        for name in sorted(os.listdir(opened)):
            _add_file(writer, opened, name, f"{path}/{name}", 0o644)
