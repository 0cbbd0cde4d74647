"""Moves a provisioned directory: by one rename, or to another file system by a whole copy that is put in place first.

At every moment the whole directory is at its old place or at its new one; while a copy takes over it is at both.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from provisioner.container.copying import copy_directory
from provisioner.container.proot_links import retarget_links
from provisioner.container.removing import Removal, check_in_place
from provisioner.container.running import check_not_running
from provisioner.container.staging import Staging
from provisioner.container_files import FOLDER, ROOTFS
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.copying import describe_losses
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.sync import sync_directory
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.progress import Console

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


def move_directory(
    opened: int, source: Path, target: Path, console: Console, trust: TrustedDirectories = NOBODY, *, sync: bool = True
) -> None:
    """Move the provisioned directory `source`, which is `opened`, to the free path `target`.

    Raises TargetExists, NotTrusted, and MachineError, also where something would be lost on another file system; then
    nothing has changed.
    """
    with Removal(source, trust, action="move") as removal, Staging(target, trust) as staging:
        check_in_place(opened, source)  # from now on no other run replaces it
        with machine_errors(f"move {printable(str(source))}: look at its rootfs"):
            os.close(os.open(ROOTFS, DIRECTORY, dir_fd=opened))
        if _rename(removal, staging):
            with machine_errors(f"change the links of proot in {printable(str(target))}"):
                _retarget_links(opened, target)
                if sync:
                    sync_directory(staging.parent)
                    sync_directory(removal.parent)
            return
        console.step("this is another file system: the files are copied, then removed")
        report = copy_directory(opened, source, staging.new, target, console, is_moved=True)
        if losses := describe_losses(report):
            raise MachineError(
                f"{printable(str(source))} would lose something there: {losses[0]}",
                f"if that doesn't matter: provision copy {shell_word(str(source))} NEW, then remove it",
            )
        check_not_running(source)
        staging.commit(console, sync=sync, replace=False)
        removal.move_aside()


def _rename(removal: Removal, staging: Staging) -> bool:
    """Rename the directory; return False where the new place is on another file system."""
    source, target = removal.target, staging.target
    shown = f"move {printable(str(source))} to {printable(str(target))}"
    with machine_errors(shown):
        try:
            os.rename(source.name, target.name, src_dir_fd=removal.parent, dst_dir_fd=staging.parent)
        except OSError as error:
            if error.errno in _OCCUPIED:
                raise TargetExists(f"{printable(str(target))} was made meanwhile", "choose another directory") from None
            if error.errno != errno.EXDEV:
                raise
            return False
    return True


def _retarget_links(opened: int, target: Path) -> None:
    """Change the hard links of Termux's proot to the new path of the rootfs."""
    with (
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=opened)) as folder,
        closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=opened)) as rootfs,
    ):
        retarget_links(rootfs, folder, os.fsencode(target / ROOTFS))
