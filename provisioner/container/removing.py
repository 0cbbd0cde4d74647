"""Removes a provisioned directory: it is renamed into its staging directory, and what is there is removed.

So it is whole or gone, whatever ends this process. What a killed one has left in the staging directory is removed by
the next run with the same directory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from provisioner.container.parents import open_parent
from provisioner.container.recovery import OLD, staging_directory
from provisioner.container.staging import Staging
from provisioner.container_files import FOLDER, ROOTFS, SCRIPT
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.locks import try_lock
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.walk import walk
from provisioner.terminal.escaping import printable

OWN_NAMES = tuple(map(os.fsencode, (ROOTFS, SCRIPT, FOLDER)))
"""What provision makes in a directory."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Removal(Staging):
    """A context that removes `target` at its end, if `move_aside()` was called in it.

    Entering raises as that of Staging does, but for what concerns a new directory.
    """

    _is_full = False
    """Whether the disk has no room for a staging directory: the target itself gets that name then."""

    def __enter__(self) -> Removal:
        """Lock the staging directory, and clean up after a killed run."""
        try:
            super().__enter__()
        except MachineError as error:
            if getattr(error.__cause__, "errno", None) not in _NO_SPACE:
                raise
            self._is_full = True
        return self

    def _make_new(self) -> None:
        """Make nothing."""

    def move_aside(self) -> None:
        """Rename the target into the staging directory. Raises MachineError; then nothing has changed."""
        shown = printable(str(self.target))
        with machine_errors(f"move {shown} aside"):
            if self._is_full:
                self._become_staging()
            else:
                os.rename(self.target.name, OLD, src_dir_fd=self.parent, dst_dir_fd=self._lock)

    def _become_staging(self) -> None:
        """Rename the target to the name of the staging directory, and open that in its place."""
        self.parent, self._created_parents = open_parent(self.target, self._trust)
        with closing_descriptor(os.open(self.target.name, DIRECTORY, dir_fd=self.parent)) as opened:
            if not try_lock(opened):
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            os.rename(self.target.name, self._name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
            self._lock, self._is_full = os.dup(opened), False

    def _clean_up(self) -> None:
        if not self._is_full:
            super()._clean_up()


def check_in_place(opened: int, directory: Path) -> None:
    """Raise MachineError unless an open directory is still at its path: else another run has replaced or removed it."""
    try:
        is_there = os.path.samestat(os.fstat(opened), os.stat(directory, follow_symlinks=False))
    except OSError:
        is_there = False
    if not is_there:
        raise MachineError(f"another run has just replaced or removed {printable(str(directory))}", "try again")


def other_names_in(opened: int) -> list[str]:
    """Return the names in an open provisioned directory that provision hasn't made, sorted. Raises MachineError."""
    with machine_errors("read the directory"):
        return sorted(os.fsdecode(name) for name in names_in(opened) if name not in OWN_NAMES)


def find_directory_owners(opened: int, directory: Path) -> set[int]:
    """Return the other users whose directories are in an open directory: only they, or root, can empty these.

    Nobody else matters to root. Raises TargetExists where another file system begins in it, and MachineError. What is
    in a directory that is closed to its owner isn't looked at.
    """
    shown, names, owners = printable(str(directory)), list[bytes](), set[int]()
    with machine_errors(f"look at the files in {shown}"):
        top = os.fstat(opened)
        for file in walk(opened, closed="skip"):
            if file is None:
                names = names[:-1]
            elif file.is_directory:
                names.append(file.name)
                if file.is_mounted:
                    where = printable(b"/".join(names[1:]))
                    raise TargetExists(
                        f"another file system, or a subvolume of btrfs, begins at {where} in {shown}",
                        "unmount it or delete it yourself, if you don't need it",
                    )
                owners.add(file.stat.st_uid)
    return owners - {os.geteuid(), top.st_uid} if os.geteuid() else set()


def find_file_owners(opened: int, directory: Path) -> set[int]:
    """Return the other users who own files in an open directory. Nobody else matters to root. Raises MachineError."""
    if os.geteuid() == 0:
        return set()
    with machine_errors(f"look at the files in {printable(str(directory))}"):
        owners = {file.stat.st_uid for file in walk(opened, closed="skip") if file}
        return owners - {os.geteuid(), os.fstat(opened).st_uid}


def was_removed_partly(target: Path) -> bool:
    """Return whether nothing is at an absolute path, but the staging directory of a killed run is beside it."""
    return not os.path.lexists(target) and os.path.isdir(staging_directory(target))
