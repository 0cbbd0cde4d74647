"""Copies a provisioned directory into its staging: everything but what belongs to processes and inodes of the original.

Hard links of Termux's proot are changed to lead to the copy, and the state of fakeroot is made for its inodes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from provisioner.container.proot_links import read_linked_rootfs, retargeted
from provisioner.container.record import Record, new_id
from provisioner.container_files import (
    FAKEROOT_STATE,
    FOLDER,
    LINKS,
    LINKS_TURN,
    LOG,
    NEW_LINK,
    OWNERSHIP_RECORD,
    PROOT_FACTS,
    ROOTFS,
    SESSIONS,
    SHARED_MEMORY,
    STAMPS,
)
from provisioner.errors import HINTS, MachineError
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.copying import CopyReport, TreeCopier
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.ownership.record import remake_state
from provisioner.terminal.escaping import printable

_OF_PROCESSES = tuple(
    os.fsencode(f"{FOLDER}/{name}")
    for name in (SESSIONS, LOG, LINKS_TURN, NEW_LINK, FAKEROOT_STATE, PROOT_FACTS, STAMPS)
)
"""The beginnings of paths that belong to what runs from a directory, or to the inodes of its files."""
_SHARED_MEMORY = os.fsencode(f"{FOLDER}/{SHARED_MEMORY}/")


def copy_directory(source: int, former: Path, target: int, place: Path, *, is_moved: bool = False) -> CopyReport:
    """Copy the open provisioned directory `source` into the open, empty directory `target`, which will be at `place`.

    `former` is the absolute path of the source. The copy gets an id of its own, unless it `is_moved`, and takes the
    place of the source. Raises MachineError.
    """
    with closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=source)) as folder:
        recorded = read_linked_rootfs(folder)
    formers = [path for path in (recorded, os.fsencode(former / ROOTFS)) if path]
    rootfs = os.fsencode(place / ROOTFS)
    copier = TreeCopier(target, is_left_out, lambda link: retargeted(link, formers, rootfs))
    try:
        report = copier.copy(source)
        _finish(target, rootfs if recorded else b"")
        if not is_moved:
            give_new_id(target)
    except OSError as error:
        what = printable(os.fsdecode(copier.path))
        raise MachineError(f"copy {what}: {os.strerror(error.errno or 0)}", HINTS.get(error.errno or 0, "")) from error
    return report


def is_left_out(path: bytes) -> bool:
    """Return whether a path of a provisioned directory belongs to what runs from it, or to the inodes of its files."""
    return path.startswith((*_OF_PROCESSES, _SHARED_MEMORY))


def _finish(target: int, rootfs: bytes) -> None:
    """Write what depends on the place of a copy, where links of proot lead to `rootfs`. Raises OSError."""
    with (
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=target)) as folder,
        closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=target)) as opened,
    ):
        if rootfs:
            replace_in(folder, LINKS, rootfs + b"\n", 0o644)
        with suppress(FileNotFoundError):  # very old directories have none
            os.stat(OWNERSHIP_RECORD, dir_fd=folder)
            remake_state(folder, opened)


def give_new_id(directory: int) -> None:
    """Give an open provisioned directory an id of its own, if it has one and its record can be read. Raises OSError."""
    with closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=directory)) as folder:
        try:
            record = Record.read_from(folder, Path(FOLDER))
        except MachineError:
            return
        if record is not None and record.id:
            replace(record, id=new_id()).replace(folder)
