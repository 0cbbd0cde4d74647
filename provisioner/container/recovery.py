"""A run that is killed while it replaces a directory leaves neither in place: the old one is put back from here.

`staging` says what is in a staging directory.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.locks import try_lock

NEW, OLD = "new", "old"
"""The names in a staging directory of what is being made, and of what is being replaced."""
_NAME_MAX = 255


def staging_directory(target: Path) -> Path:
    """Return the sibling of `target` that it is made in. Its name is a hash where the usual one would be too long."""
    name = os.fsencode(target.name)
    if len(name) + len(b"..provision") > _NAME_MAX:
        name = hashlib.sha256(name).hexdigest().encode()
    return target.parent / os.fsdecode(b".%s.provision" % name)


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


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
