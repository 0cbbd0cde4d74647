"""Makes a provisioned directory of a backup: on another machine, for another user, with or without root.

What would run on this machine is written anew: start.sh with the settings of the backup's, the helper and the filters.
The ownership record stays that of the image, so that what the user has changed is known after it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.archives.compression import decompress
from provisioner.container.copying import give_new_id
from provisioner.container.ids import MANY_IDS, Ids
from provisioner.container.record import Record
from provisioner.container_files import (
    CONFIG,
    FAKEROOT_STATE,
    FOLDER,
    GENERATED,
    IDS,
    MANIFEST,
    MOUNT_POINTS,
    OLD_SCRIPT,
    OWNERSHIP_RECORD,
    RECORD,
    ROOTFS,
    SCRIPT,
    SHARED_MEMORY,
)
from provisioner.errors import MachineError, MalformedImage, machine_errors
from provisioner.exports.backup import DigestCheck
from provisioner.exports.backup_reader import NO_BACKUP_HINT, BackupApplier, BackupReader
from provisioner.filesystem.atomic import make_directory, write_new
from provisioner.filesystem.descriptors import NEW_FILE, closing_descriptor
from provisioner.filesystem.kind import DEVICES
from provisioner.filesystem.walk import walk
from provisioner.image.platform import host_platform
from provisioner.launch.renewal import script_anew, settings_of
from provisioner.launch.runtime_files import runtime_files, write_files
from provisioner.layers.budget import Budget
from provisioner.ownership import mtree
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.pairing import pair_files
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import open_record, write_owners
from provisioner.rootfs.access_lists import set_access_lists
from provisioner.rootfs.links import Links, Substitute, Substitutes
from provisioner.rootfs.tree import Tree
from provisioner.terminal.escaping import printable

_DAMAGED_HINT = "take another copy of the backup: what is in this one was damaged, or cut short, on its way"
_DOCUMENTS = ((MANIFEST, "manifest_digest"), (CONFIG, "config_digest"))
_SETTINGS = {"default_binds": "binds", "default_proot_options": "options of proot", "default_env": "variables"}
"""Settings of start.sh that concern this machine, and what they are."""


@dataclass
class Restored:
    """What was restored."""

    record: Record
    substitutes: Substitutes
    lost_owners: int
    """How many files have another owner in the backup, which only root can give them."""
    lost_access_lists: int
    """How many access lists this file system or user can't have."""
    lost_devices: int
    """How many devices that the image doesn't have are empty files."""
    clamped_times: int
    """How many files have a time that can't be kept, and the nearest one instead."""
    is_edited: bool
    """Whether start.sh was edited, which is not taken over."""
    has_digest: bool
    settings: list[str] = field(default_factory=list)
    """A line for each kind of setting that start.sh has from the backup and that concerns this machine."""


def restore_backup(
    chunks: Iterator[bytes],
    place: int,
    scratch: int,
    ownership: Ownership,
    budget: Budget,
    hardlinks: Substitute,
    shell: str,
) -> Restored:
    """Unpack the backup that `chunks` are the bytes of into the open, empty directory `place`, all verified.

    `scratch` is another open, empty directory. Raises MalformedImage for what is no backup, or a damaged one, and
    MachineError; what was written stays then.
    """
    check = DigestCheck(decompress(chunks, "", "the backup"))
    links = Links(hardlinks)
    with machine_errors("make the directory"):
        folder = make_directory(place, FOLDER)
        rootfs = make_directory(place, ROOTFS)
    with closing_descriptor(folder), closing_descriptor(rootfs), Tree(rootfs) as tree:
        reader = BackupReader(check, ownership, budget, folder)
        applier = BackupApplier(tree, ownership, budget=budget, links=links)
        with _hints():
            applier.apply_reader(reader)
        _check_end(check)
        record = _check_documents(reader, folder)
        applier.finish()
        with machine_errors("write what belongs to this machine"):
            script, is_edited = _write_files(reader.taken, place, folder, shell)
            lost_access_lists = set_access_lists(rootfs, tree.overrides)
            _write_owners(folder, rootfs, scratch, tree, ownership)
            lost_devices = _count_added_devices(folder, rootfs, tree.overrides) if applier.devices else 0
            give_new_id(place)
        settings = _describe_settings(script)
        losses = (applier.lost_owners, lost_access_lists, lost_devices, applier.clamped_times)
        return Restored(record, links.substitutes, *losses, is_edited, check.has_digest, settings)


@contextmanager
def _hints() -> Iterator[None]:
    """Give errors of the archive a hint for backups in place of that for images."""
    try:
        yield
    except MalformedImage as error:
        if error.hint == MalformedImage.usual_hint:
            error.hint = _DAMAGED_HINT
        raise


def _check_end(check: DigestCheck) -> None:
    """Raise MalformedImage for a backup that isn't as it was written."""
    if check.has_digest and not check.matches:
        raise MalformedImage("the backup doesn't match its digest", _DAMAGED_HINT)
    if not check.has_end:
        raise MalformedImage("the backup was cut short: its end is missing", _DAMAGED_HINT)


def _check_documents(reader: BackupReader, folder: int) -> Record:
    """Return the record of a backup, with which its manifest and config agree. Raises MalformedImage."""
    taken = {path.removeprefix(f"{FOLDER}/"): content for path, content in reader.taken.items()}
    if RECORD not in taken or not reader.has_record or SCRIPT not in taken:
        raise MalformedImage("it is no backup: it lacks files that provision makes", NO_BACKUP_HINT)
    with machine_errors("write the record"):
        for name in (RECORD, *(name for name, _ in _DOCUMENTS)):
            if (content := taken.get(name)) is not None:
                write_new(folder, name, content)
    record = Record.read_from(folder, Path("the backup"))
    assert record is not None
    for name, digest in _DOCUMENTS:
        content = taken.get(name, b"")
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != getattr(record, digest):
            raise MalformedImage(f"{name} in the backup is not what its record says", _DAMAGED_HINT)
    return record


def _write_files(taken: dict[str, bytes], place: int, folder: int, shell: str) -> tuple[bytes, bool]:
    """Write start.sh and the files that it uses. Returns the former one, and whether that was edited. Raises OSError.

    Raises MalformedImage where start.sh isn't one of provision.
    """
    script = taken[SCRIPT]
    anew = script_anew(script, shell)
    if anew is None:
        raise MalformedImage("start.sh in the backup is none of provision's", NO_BACKUP_HINT)
    content, is_edited = anew
    write_new(place, SCRIPT, content, 0o755)
    if is_edited:
        write_new(folder, OLD_SCRIPT, script, 0o644)
    write_files(folder, runtime_files(host_platform()))
    with closing_descriptor(make_directory(folder, GENERATED)) as generated:
        prefix = f"{FOLDER}/{GENERATED}/"
        for path in sorted(taken):
            if path.startswith(prefix):
                write_new(generated, path[len(prefix) :], taken[path])
    if mount_points := taken.get(f"{FOLDER}/{MOUNT_POINTS}"):
        write_new(folder, MOUNT_POINTS, mount_points)
    os.close(make_directory(folder, SHARED_MEMORY, 0o1777))
    if Ids.parse(taken.get(f"{FOLDER}/{IDS}", b"")).are_many and os.geteuid() != 0:
        write_new(folder, IDS, MANY_IDS)  # start.sh gives the files the image's owners at the first start
    return script, is_edited


def _count_added_devices(folder: int, rootfs: int, overrides: MetadataOverrides) -> int:
    """Return how many empty files of a finished tree stand for devices that the image doesn't have. Raises OSError."""
    with open_record(folder) as record:
        pairs = filter(None, pair_files(mtree.parse_entries(record), walk(rootfs)))
        return sum(
            (metadata := overrides.get(file.stat.st_ino)) is not None
            and metadata.device is not None
            and (entry is None or entry.kind not in DEVICES)
            for file, entry in pairs
        )


def _write_owners(folder: int, rootfs: int, scratch: int, tree: Tree, ownership: Ownership) -> None:
    """Set the times of directories, and write fakeroot's state with the owners of the backup. Raises OSError.

    The record is the backup's, but for its header: whether the files have the image's owners depends on this machine.
    """
    write_owners(scratch, rootfs, tree.overrides, ownership)
    os.rename(FAKEROOT_STATE, FAKEROOT_STATE, src_dir_fd=scratch, dst_dir_fd=folder)
    try:
        with (
            open_record(folder) as old,
            open(_create_record(scratch), "wb") as new,
        ):
            old.readline()
            second = old.readline()
            header = mtree.parse_header(second)._replace(has_owners=ownership.exact)
            new.write(mtree.format_header(header))
            if header.written is None:
                new.write(second)
            for line in old:
                new.write(line)
        with open_record(scratch) as lines:
            for _ in mtree.parse_entries(lines):
                pass
    except MachineError as error:
        raise MalformedImage("the ownership record in the backup is damaged", _DAMAGED_HINT) from error
    os.rename(OWNERSHIP_RECORD, OWNERSHIP_RECORD, src_dir_fd=scratch, dst_dir_fd=folder)


def _create_record(scratch: int) -> int:
    """Create the record in `scratch`, in place of the one that was written there, and return it open."""
    os.unlink(OWNERSHIP_RECORD, dir_fd=scratch)
    return os.open(OWNERSHIP_RECORD, NEW_FILE, 0o644, dir_fd=scratch)


def _describe_settings(script: bytes) -> list[str]:
    """Return a line for each kind of setting of a start.sh that concerns this machine."""
    settings = settings_of(script)
    lines = []
    for name, what in _SETTINGS.items():
        value = settings.get(name, b"''")
        if value not in (b"''", b""):
            text = re.sub(rb"^'|'$|'\"'\"'", b"", value)
            lines.append(f"start.sh has {what} of the backup: {printable(text[:300])}")
    return lines
