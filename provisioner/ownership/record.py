"""The ownership record of a tree: ownership.mtree, and the fakeroot.state that is made of it.

Both are written when the tree is provisioned. The state is by inode: for a copy of the tree it is written again, from
the record.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, TypeVar

from provisioner.container_files import FAKEROOT_STATE, OWNERSHIP_RECORD
from provisioner.filesystem.descriptors import (
    ANY_FILE,
    EXISTING_FILE,
    NEW_FILE,
    closing_descriptor,
    directory_descriptor,
)
from provisioner.filesystem.kind import KINDS, Kind
from provisioner.filesystem.walk import Walk, WalkedFile, walk
from provisioner.ownership import mtree
from provisioner.ownership.digests import EMPTY, LARGEST, FileDigests, hash_file
from provisioner.ownership.fakeroot import state_line
from provisioner.ownership.mtree import Header, MtreeEntry
from provisioner.ownership.overrides import NO_TIME, FileMetadata, MetadataOverrides
from provisioner.ownership.parts import ALL, PartIndex, RecordPart, RecordParts, Share
from provisioner.ownership.policy import WITHOUT_ROOT, Ownership

_T = TypeVar("_T", MtreeEntry, WalkedFile)


def write_owners(
    folder: Path | int,
    root: Path | int,
    overrides: MetadataOverrides,
    ownership: Ownership,
    parts: RecordParts | None = None,
) -> None:
    """Write the record and fakeroot's state of the tree at `root` into `folder`. Raises OSError.

    Before that, each directory gets its time of `overrides`. `folder` and `root` are paths or open directories. Lines
    that `parts` has of it are copied.
    """
    with (
        directory_descriptor(folder) as where,
        _create(where, OWNERSHIP_RECORD) as record,
        _create(where, FAKEROOT_STATE) as state,
    ):
        # The file system's clock, which is another machine's on NFS and the like, and may be off.
        now = os.fstat(record.fileno()).st_mtime_ns
        record.write(mtree.format_header(Header(now, ownership.exact)))
        path: list[bytes] = []
        files = Walk(root)
        for file in files:
            if file is None:
                record.write(mtree.DIRECTORY_END)
                path.pop()
                continue
            if _write_file(record, state, file, overrides, ownership):
                path.append(file.name)
                if parts and parts.copy(b"/".join(path[1:]), file.stat.st_ino, record, state):
                    path.pop()
                    files.skip()


def open_record(folder: int) -> BinaryIO:
    """Open the record in an open directory for reading, without waiting where a FIFO is in its place.

    Raises FileNotFoundError where there is none, MachineError for what is no file, and OSError.
    """
    file = os.open(OWNERSHIP_RECORD, ANY_FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise mtree.damaged()
    return open(file, "rb")


def content_of(record: BinaryIO, manifest_digest: str) -> str:
    """Return a SHA-256 digest, in hexadecimal, of the rest of a record and the manifest of its image. Raises OSError.

    A record with the same digest that is found later is the one that was written here, for this image.
    """
    hasher = sha256(manifest_digest.encode() + b"\n")
    while data := record.read(1 << 18):
        hasher.update(data)
    return hasher.hexdigest()


def write_part(
    folder: int, name: bytes, root: int, overrides: MetadataOverrides, ownership: Ownership, share: Share = ALL
) -> RecordPart:
    """Write the lines of the tree at the open directory `root` into files of `folder`, and return where these are.

    Before that, each directory gets its time of `overrides`. Where several processes write the lines of one tree, each
    writes its `share`. Raises OSError.
    """
    part = RecordPart(name, {})
    with (
        open(part.open_file(folder, b".mtree", NEW_FILE), "wb") as record,
        open(part.open_file(folder, b".state", NEW_FILE), "wb") as state,
    ):
        index, files = PartIndex(part, record, state, share), Walk(root)
        for file in files:
            if file is None:
                record.write(mtree.DIRECTORY_END)
                index.end()
                continue
            status = file.stat
            if share != ALL and index.leaves_out(file):
                if stat.S_ISDIR(status.st_mode):
                    files.skip()
                continue
            if _write_file(record, state, file, overrides, ownership):
                index.begin(status.st_ino)
            elif status.st_nlink > 1:
                index.leave_out()
    return part


def _write_file(
    record: BinaryIO, state: BinaryIO, file: WalkedFile, overrides: MetadataOverrides, ownership: Ownership
) -> bool:
    """Write the lines of a file, and give a directory its time before. Returns whether it is a directory."""
    status = file.stat
    metadata, kind = overrides.get(status.st_ino), stat.S_IFMT(status.st_mode)
    if metadata is None and kind == stat.S_IFREG:
        _write_plain_file(record, state, file, _digest_of(file, overrides.digests), ownership.exact)
        return False
    if is_directory := kind == stat.S_IFDIR:
        file = _with_time(file, overrides.times[status.st_ino])
    entry = _make_entry(file, metadata, ownership.exact)
    if entry.kind is Kind.FILE:
        entry = entry._replace(digest=_digest_of(file, overrides.digests))
    if line := state_line(entry, status):
        state.write(line)
    record.write(mtree.format_xattrs(entry.xattrs))
    record.write(mtree.format_entry(entry))
    return is_directory


def _with_time(directory: WalkedFile, mtime: int) -> WalkedFile:
    """Set the time of a directory unless it has that, or the image has none; return what it is then."""
    if mtime in (NO_TIME, directory.stat.st_mtime_ns):
        return directory
    os.utime(directory.name, ns=(mtime, mtime), dir_fd=directory.directory, follow_symlinks=False)
    # The file system may keep another time than that.
    status = os.stat(directory.name, dir_fd=directory.directory, follow_symlinks=False)
    return directory._replace(stat=status)


def _digest_of(file: WalkedFile, digests: FileDigests) -> bytes:
    """Return the digest of a regular file: as it was written, else of what it has now; empty for a large file.

    Raises OSError.
    """
    if not file.stat.st_size:
        return EMPTY
    if (digest := digests.get(file.stat.st_ino)) or file.stat.st_size > LARGEST:
        return digest or b""
    with closing_descriptor(os.open(file.name, EXISTING_FILE, dir_fd=file.directory)) as opened:
        return hash_file(opened)


def _write_plain_file(record: BinaryIO, state: BinaryIO, file: WalkedFile, digest: bytes, exact: bool) -> None:
    """Write the lines of a file that has nothing but what the file system says, as most have: it has to be fast."""
    status = file.stat
    mode = status.st_mode & 0o7777
    uid, gid = (status.st_uid, status.st_gid) if exact else (0, 0)
    words = mtree.format_words(Kind.FILE, mode, uid, gid, status.st_mtime_ns)
    links = b" nlink=%d" % status.st_nlink if status.st_nlink > 1 else b""
    name = mtree.encode_name(file.name)
    record.write(b"%s%s size=%d%s%s\n" % (name, words, status.st_size, mtree.format_digest(digest), links))
    if (uid or gid or mode & 0o600 != 0o600) and (
        line := state_line(MtreeEntry(file.name, Kind.FILE, mode, uid, gid), status)
    ):
        state.write(line)


def _create(folder: int, name: str) -> BinaryIO:
    return open(os.open(name, NEW_FILE, 0o644, dir_fd=folder), "wb")


def _make_entry(file: WalkedFile, metadata: FileMetadata | None, exact: bool) -> MtreeEntry:
    """Return what the image says about a file, but for its digest: its overrides, else what the file system says.

    The file system has the image's owner only if the policy is `exact`. Otherwise a file without overrides is root's.
    """
    status = file.stat
    kind, device = KINDS[stat.S_IFMT(status.st_mode)], (0, 0)
    mode = stat.S_IMODE(status.st_mode)
    uid, gid = (status.st_uid, status.st_gid) if exact else (0, 0)
    if kind is Kind.CHARACTER or kind is Kind.BLOCK:
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if metadata is not None:
        if metadata.device is not None:
            kind, device = metadata.device[0], metadata.device[1:]
        mode = metadata.mode if kind is not Kind.SYMLINK else 0o777
        uid, gid = metadata.uid, metadata.gid
    target = os.readlink(file.name, dir_fd=file.directory) if kind is Kind.SYMLINK else b""
    size = status.st_size if kind is Kind.FILE else 0
    links = 1 if kind is Kind.DIRECTORY else status.st_nlink
    return MtreeEntry(
        *(file.name, kind, mode, uid, gid, device),
        mtime=status.st_mtime_ns,
        size=size,
        links=links,
        target=target,
        xattrs=metadata.xattrs if metadata is not None else (),
    )


def remake_state(folder: Path | int, root: Path | int) -> int:
    """Write fakeroot's state again, for the inodes that the tree at `root` has now, and return its number of files.

    Files that the record doesn't name have no line: fakeroot shows them as root's. A mode that was changed since the
    record was written stays. Both are paths or open directories. Raises OSError; MachineError where the record can't
    be read.
    """
    with directory_descriptor(folder) as opened:
        return _remake_state(opened, root)


def _remake_state(folder: int, root: Path | int) -> int:
    count = 0
    # Unlike replace_in, this writes while it reads, and follows no symlink, which another user may have put there.
    new = FAKEROOT_STATE + ".new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)  # left by a killed process, or a symlink
    try:
        with open_record(folder) as record, _create(folder, new) as state:
            for entry, file in _match(mtree.parse_entries(record), walk(root, closed="open")):
                if line := state_line(_with_current_mode(entry, file.stat), file.stat):
                    state.write(line)
                    count += 1
            if not os.geteuid():  # root may do this for the user whose directory it is
                status = os.fstat(folder)
                with suppress(PermissionError):  # as some containers forbid it
                    os.fchown(state.fileno(), status.st_uid, status.st_gid)
        os.rename(new, FAKEROOT_STATE, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        raise
    return count


def _with_current_mode(entry: MtreeEntry, status: os.stat_result) -> MtreeEntry:
    """Return `entry` with the mode that the file has now, if that was changed after it was provisioned."""
    mode = stat.S_IMODE(status.st_mode)
    if entry.kind is Kind.SYMLINK or mode in (entry.mode, WITHOUT_ROOT.mode(entry.kind, entry.mode)):
        return entry
    return entry._replace(mode=mode)


def _match(
    record: Iterator[MtreeEntry | None], tree: Iterator[WalkedFile | None]
) -> Iterator[tuple[MtreeEntry, WalkedFile]]:
    """Yield the files that the record and the tree both have, with the same kind. Both are in the order of `walk`."""
    depth = 0
    entry, file = next(record), next(tree)
    while True:
        if entry is None and file is None:
            depth -= 1
            if not depth:
                return
        elif file is not None and (entry is None or file.name < entry.name):
            file = _next_sibling(tree, file.is_directory)
            continue
        elif entry is not None and (file is None or entry.name < file.name):
            entry = _next_sibling(record, entry.is_directory)
            continue
        elif entry is not None and file is not None:
            if _is_same_kind(entry, file) and not file.is_mounted:
                yield entry, file
            if entry.is_directory and file.is_directory:
                depth += 1
            else:
                entry, file = _next_sibling(record, entry.is_directory), _next_sibling(tree, file.is_directory)
                continue
        entry, file = next(record), next(tree)


def _next_sibling(items: Iterator[_T | None], is_directory: bool) -> _T | None:
    """Skip the content of the last item, if that is a directory, and return the item behind it."""
    depth = int(is_directory)
    while depth:
        item = next(items)
        depth += -1 if item is None else item.is_directory
    return next(items)


def _is_same_kind(entry: MtreeEntry, file: WalkedFile) -> bool:
    """Return whether a file has the kind of its entry. An empty file may stand in for a device."""
    kind = KINDS.get(stat.S_IFMT(file.stat.st_mode))
    if kind is Kind.FILE and (entry.kind is Kind.CHARACTER or entry.kind is Kind.BLOCK):
        return not file.stat.st_size
    return kind is entry.kind
