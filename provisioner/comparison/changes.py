"""Lists what was added, changed and deleted in a provisioned directory since its image was unpacked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from provisioner.comparison.join import join_one
from provisioner.comparison.state import Aspect, Baseline
from provisioner.container.access import open_rootfs, read_file
from provisioner.container.ids import read_ids
from provisioner.container.proot_links import LINK_FOLDER
from provisioner.container_files import GENERATED, GENERATED_NAMES, MOUNT_POINTS, ROOTFS
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, PathErrors, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.kind import KINDS, Kind
from provisioner.filesystem.walk import Closed, WalkedFile, walk
from provisioner.ownership.mtree import MtreeEntry, parse_entries, parse_header
from provisioner.ownership.record import open_record

_MOUNT_POINTS = frozenset((b"dev", b"proc", b"sys", b"run", b"tmp", b"dev/pts", b"dev/shm", b"dev/mqueue"))
"""Directories that start.sh makes where the image has none."""
_LINKS = os.fsencode(LINK_FOLDER)


@dataclass(frozen=True)
class Change:
    """A path that is not as the image has it."""

    path: bytes
    """From the root, without a slash in front of it."""
    letter: str
    """A for added, C for changed, D for deleted, as `docker diff` says it."""
    kind: Kind | None
    """What is there now, or was there; None for a socket."""
    aspects: tuple[Aspect, ...] = ()
    """What has changed; nothing for a directory that is listed since something in it has changed."""
    size: int = 0
    """Bytes of the file now."""
    size_before: int = 0
    """Bytes of the file in the image."""
    disk_size: int = 0
    """Bytes that the file takes on the disk now: fewer than `size` if it has holes."""


@contextmanager
def opened_record(folder: int, shown: str) -> Iterator[tuple[BinaryIO, Baseline]]:
    """Open the ownership record in the open `.provision/` of a directory, with the baseline for comparing files.

    `shown` is the directory's name for messages. Raises MachineError where there is no record.
    """
    with ExitStack() as stack:
        with machine_errors(f"read the ownership record of {shown}"):
            try:
                record = stack.enter_context(open_record(folder))
            except FileNotFoundError:
                raise MachineError(
                    f"{shown} has no ownership record, so that nobody knows what its image was",
                    PROVISION_ELSEWHERE,
                ) from None
            record.readline()
            header = parse_header(record.readline())
            record.seek(0)
            status = os.fstat(folder)
            links = _open_links(folder, stack)
            owner = (status.st_uid, status.st_gid)
            points = read_mount_points(folder)
            baseline = Baseline(header, owner, _generated_files(folder), read_ids(folder).first, links, points)
        yield record, baseline


def find_changes(folder: int, shown: str, *, closed: Closed = "skip") -> Iterator[Change]:
    """Yield the changes in the rootfs beside the open `.provision/`, sorted by directory.

    As in `docker diff`, a directory is listed before what has changed in it, and of a deleted one only itself. What is
    mounted in the rootfs is not looked at. `closed` is that of `walk`. Raises MachineError.
    """
    with (
        opened_record(folder, shown) as (record, baseline),
        PathErrors(f"compare {shown} with its image") as errors,
        closing_descriptor(open_rootfs(folder)) as rootfs,
    ):
        listed: list[bytes] = []
        for change in _changes(record, rootfs, baseline, closed, errors):
            yield from _directories_above(change.path, listed)
            if change.kind is Kind.DIRECTORY and change.letter != "D":
                listed.append(change.path)
            yield change


def _changes(record: BinaryIO, rootfs: int, baseline: Baseline, closed: Closed, errors: PathErrors) -> Iterator[Change]:
    """Yield the changes, without directories in which only something has changed. `errors.path` is set to each path."""
    skipped = b"/"
    for path, entry, file in join_one(parse_entries(record), walk(rootfs, closed=closed)):
        errors.path = path
        if path.startswith(skipped):
            continue
        if entry is None:
            assert file is not None
            if path == _LINKS:
                skipped = path + b"/"
            elif not _is_left_out(path, file, baseline):
                yield Change(path, "A", _kind(file), size=_size(file), disk_size=size_on_disk(file.stat))
            continue
        aspects = () if file is None or file.is_mounted else baseline.compare(path, entry, file)
        is_plain = file is not None and not (aspects or file.is_mounted or file.is_directory)
        if not is_plain and (file is None or not _is_compared_below(entry, file, aspects)):
            skipped = path + b"/"
        if file is None:
            yield Change(path, "D", entry.kind, size_before=entry.size)
        elif aspects:
            yield Change(path, "C", _kind(file), aspects, _size(file), entry.size, size_on_disk(file.stat))


def _is_left_out(path: bytes, file: WalkedFile, baseline: Baseline) -> bool:
    """Return whether an added file isn't the container's: start.sh has made it for a mount, or it is mounted."""
    is_mounted_file = file.is_mounted and not file.is_directory
    return is_mounted_file or is_mount_point(path, file, baseline.mount_points)


def _is_compared_below(entry: MtreeEntry, file: WalkedFile, aspects: tuple[Aspect, ...]) -> bool:
    """Return whether what is below a path is compared with the record, if it is a directory there."""
    if file.is_mounted or (entry.is_directory and aspects[:1] == (Aspect.TYPE,)):
        return False
    return not file.is_directory or may_enter(file)


def _directories_above(path: bytes, listed: list[bytes]) -> Iterator[Change]:
    """Yield the directories above a changed path that are not `listed` yet. Those that end before it are removed."""
    while listed and not path.startswith(listed[-1] + b"/"):
        listed.pop()
    at = len(listed[-1]) + 1 if listed else 0
    while (at := path.find(b"/", at)) > 0:
        listed.append(path[:at])
        yield Change(path[:at], "C", Kind.DIRECTORY)
        at += 1


def may_enter(directory: WalkedFile) -> bool:
    """Return whether this user may read and search a directory."""
    is_open = directory.stat.st_mode & 0o500 == 0o500
    return is_open or os.access(directory.name, os.R_OK | os.X_OK, dir_fd=directory.directory)


def is_mount_point(path: bytes, file: WalkedFile, known: frozenset[bytes] = frozenset()) -> bool:
    """Return whether start.sh has made an added file for a mount: `known` are the paths of those that it wrote down.

    A file is empty, and so is a directory, but for other ones of that kind.
    """
    if path not in known and path not in _MOUNT_POINTS:
        return False
    if file.is_mounted:
        return True
    if not file.is_directory:
        return path in known and stat.S_ISREG(file.stat.st_mode) and not file.stat.st_size
    if not may_enter(file):
        return False
    with closing_descriptor(os.open(file.name, DIRECTORY, dir_fd=file.directory)) as opened:
        return all(
            is_mount_point(path + b"/" + name, WalkedFile(name, opened, status), known)
            for name in map(os.fsencode, os.listdir(opened))
            for status in [os.stat(name, dir_fd=opened, follow_symlinks=False)]
        )


def read_mount_points(folder: int) -> frozenset[bytes]:
    """Return the paths, from the rootfs, of what start.sh has made for mounts, by the open `.provision/`."""
    lines = (read_file(folder, MOUNT_POINTS, MOUNT_POINTS) or b"").splitlines()
    return frozenset(line.lstrip(b"/") for line in lines)


def _kind(file: WalkedFile) -> Kind | None:
    return KINDS.get(stat.S_IFMT(file.stat.st_mode))


def size_on_disk(status: os.stat_result) -> int:
    """Return the bytes that the content of a regular file takes; 0 for other files. `status` is its lstat(2)."""
    return min(status.st_size, 512 * status.st_blocks) if stat.S_ISREG(status.st_mode) else 0


def _size(file: WalkedFile) -> int:
    return file.stat.st_size if stat.S_ISREG(file.stat.st_mode) else 0


def _open_links(folder: int, stack: ExitStack) -> int | None:
    """Return the open directory of proot's hard links, which `stack` closes; None where there is none."""
    try:
        opened = os.open(f"../{ROOTFS}/{LINK_FOLDER}", DIRECTORY, dir_fd=folder)
    except OSError:
        return None
    return stack.enter_context(closing_descriptor(opened))


def _generated_files(folder: int) -> dict[bytes, bytes]:
    """Return the files that start.sh writes, as it wrote them last, by path."""
    with suppress(FileNotFoundError), closing_descriptor(os.open(GENERATED, DIRECTORY, dir_fd=folder)) as generated:
        contents = {name: read_file(generated, name, name) for name in GENERATED_NAMES}
        return {f"etc/{name}".encode(): content for name, content in contents.items() if content is not None}
    return {}
