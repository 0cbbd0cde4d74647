"""The directories above a provisioned directory that are created for it, and removed again while they are empty."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from provisioner.errors import TargetExists
from provisioner.filesystem.descriptors import DIRECTORY, DIRECTORY_LOCATION
from provisioner.filesystem.resolution import resolve
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable


def open_parent(target: Path, trust: TrustedDirectories) -> tuple[int, int]:
    """Open the directory that `target` is in, and return it with the number of directories that were created for it.

    Those above are created, too, where they are missing. `target` is an absolute path without symlinks. Raises
    TargetExists where a part of it is a file, Untrusted and OSError; then none of them is left.
    """
    while True:
        found = resolve(target, trust, parents_only=True)
        here, created = found.directory, list[str]()
        try:
            if found.path != target:  # somebody has put a symlink there since the path was resolved
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            for name in found.missing[:-1]:
                below = _create(here, name)
                os.close(here)
                here = below
                created.append(name)
            return os.open(".", DIRECTORY, dir_fd=here), len(created)
        except NotADirectoryError:
            remove_empty(here, reversed(created))
            raise TargetExists(
                f"{printable(str(target))}: a part of this path is a file", "choose another directory"
            ) from None
        except FileExistsError:  # another run creates them at the same time: they are looked at again
            continue
        except BaseException:
            remove_empty(here, reversed(created))
            raise
        finally:
            os.close(here)


def _create(above: int, name: str) -> int:
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
