"""A run that is killed while it replaces a directory leaves neither in place: the old one is put back from here.

`staging` says what is in a staging directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from provisioner.errors import TargetExists
from provisioner.filesystem.atomic import NAME_MAX
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.locks import try_lock
from provisioner.filesystem.trust import created_owner
from provisioner.terminal.escaping import printable

NEW, OLD, KEEP = "new", "old", "keep"
"""Names in a staging directory: what is being made, what is being replaced, and a file that says what OLD becomes."""


def staging_directory(target: Path) -> Path:
    """Return the sibling of `target` that it is made in. Its name is a hash where the usual one would be too long."""
    name = os.fsencode(target.name)
    if len(name) + len(b"..provision") > NAME_MAX:
        name = hashlib.sha256(name).hexdigest().encode()
    return target.parent / os.fsdecode(b".%s.provision" % name)


def scratch_directory(target: Path) -> Path:
    """Return where the staging of `target` has its temporary files, whether that exists or not."""
    return staging_directory(target) / "scratch"


def check_staging(parent: int, target: Path) -> None:
    """Raise TargetExists if others may write to the staging directory of `target`, and so decide what gets its name.

    `parent` is the open directory that the target is in. Raises OSError where that can't be searched.
    """
    folder = staging_directory(target)
    with suppress(FileNotFoundError):
        state = os.stat(folder.name, dir_fd=parent, follow_symlinks=False)
        is_ours = state.st_uid in (os.geteuid(), created_owner(parent)) and not state.st_mode & 0o022
        if not stat.S_ISDIR(state.st_mode) or not is_ours:
            message = f"{printable(str(folder))} is no directory that only this user may write to"
            raise TargetExists(message, "move it away, or ask its owner to")


def was_interrupted(target: Path) -> bool:
    """Return whether a run was killed, or is at work, between the two renames that replace `target`."""
    folder = staging_directory(target)
    return not os.path.lexists(target) and all(os.path.isdir(folder / name) for name in (OLD, NEW))


def put_back(parent: int, name: str) -> bool:
    """Put the directory `name` back in its open parent, if a run was killed between the renames that replace it.

    Returns whether it was. Nothing happens where the run is still at work, or was another user's. What else it has left
    is removed by the next run that changes the directory.
    """
    try:
        folder = os.open(staging_directory(Path(name)).name, DIRECTORY, dir_fd=parent)
        with closing_descriptor(folder):
            state = os.fstat(folder)
            if state.st_uid != os.geteuid() or state.st_mode & 0o022 or not try_lock(folder):
                return False
            os.stat(NEW, dir_fd=folder)
            if _exists(parent, name):
                return False
            os.rename(OLD, name, src_dir_fd=folder, dst_dir_fd=parent)
            return True
    except OSError:  # there is no such directory, or one that this user can't use
        return False


def recover(folder: int, parent: int, name: str, keep: bytes) -> None:
    """Do what a killed run would have done next with the directory that it was replacing, `name` in its open parent.

    It is put back, or gets the name that KEEP has for it where the new one is in place. `folder` is the staging
    directory, open and locked, and `keep` the content of its KEEP, empty if there is none. Raises OSError.
    """
    if _exists(folder, OLD) and _exists(folder, NEW):
        os.rename(OLD, name, src_dir_fd=folder, dst_dir_fd=parent)
    elif keep:
        number, _, keep_as = keep.partition(b"/")
        # What is called new is the old one after the exchange.
        if old := next((found for found in (OLD, NEW) if _is_old(folder, found, number)), None):
            os.rename(old, keep_as or number, src_dir_fd=folder, dst_dir_fd=parent)


def _is_old(folder: int, name: str, number: bytes) -> bool:
    """Return whether `name` in a staging directory is there and isn't the new one, whose inode has `number`."""
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
        return name == OLD or (number.isdigit() and found != int(number))
    return False


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
