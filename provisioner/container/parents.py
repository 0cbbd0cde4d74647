"""The directories above a provisioned directory that are created for it, and removed again while they are empty."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from provisioner.filesystem.descriptors import DIRECTORY_LOCATION


def create_parent(above: int, name: str) -> int:
    """Create a directory in the open one `above` and return it open, of O_PATH.

    Raises FileExistsError where another run has created it, and NotADirectoryError where a file is in the way.
    """
    try:
        # Root would not rely on what others may write to.
        os.mkdir(name, 0o777 if os.geteuid() else 0o755, dir_fd=above)
    except FileExistsError:
        mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    return os.open(name, DIRECTORY_LOCATION, dir_fd=above)


def remove_empty(directory: int, names: Iterable[str]) -> None:
    """Remove an open directory and those above it, as far as they are empty; `names` are theirs, the lowest first."""
    here = os.dup(directory)
    try:
        for name in names:
            state, above = os.fstat(here), os.open("..", DIRECTORY_LOCATION, dir_fd=here)
            os.close(here)
            here = above
            if not os.path.samestat(state, os.stat(name, dir_fd=here, follow_symlinks=False)):
                return
            os.rmdir(name, dir_fd=here)
    except OSError:  # somebody uses it by now
        return
    finally:
        os.close(here)
