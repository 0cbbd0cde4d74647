"""Creation and atomic replacement of small files, relative to an open directory.

A reader of a file that is replaced finds the old content or the new, even after a crash.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY, NEW_FILE
from provisioner.filesystem.resolution import resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories

_LONGEST_PREFIX = 100


def write_new(directory: int, name: str, data: bytes, mode: int | None = 0o644) -> None:
    """Create the file `name` in an open directory, with these permission bits whatever the umask. Raises OSError.

    Without a `mode` it is for this user alone, as far as the file system keeps permissions.
    """
    with open(os.open(name, NEW_FILE, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
        if mode is not None:
            os.fchmod(file.fileno(), mode)


def make_directory(directory: int, name: str, mode: int = 0o755) -> int:
    """Create a directory in an open one, with these permission bits, and return it open. Raises OSError."""
    os.mkdir(name, 0o700, dir_fd=directory)
    opened = os.open(name, DIRECTORY, dir_fd=directory)
    try:
        os.fchmod(opened, mode)
    except BaseException:
        os.close(opened)
        raise
    return opened


def replace_file(path: Path, data: bytes, mode: int, trust: TrustedDirectories = NOBODY) -> None:
    """Replace the content of `path` with `data` and its permission bits with `mode`.

    A symlink is followed, unless a stranger has made it. Raises OSError.
    """
    with resolved(path, trust, checks_directories=False) as found:
        if len(found.missing) != 1:
            number = errno.ENOENT if found.missing else errno.EISDIR
            raise OSError(number, os.strerror(number), str(path))
        replace_in(found.directory, found.missing[0], data, mode)


def replace_in(directory: int, name: str, data: bytes, mode: int) -> None:
    """Replace the file `name` in an open directory.

    The data is written to a new file beside it, with a name that nobody can know before, synced, and renamed. Raises
    OSError.
    """
    temporary = f".{name[:_LONGEST_PREFIX]}.{os.urandom(8).hex()}"
    file = os.open(temporary, NEW_FILE, 0o600, dir_fd=directory)  # nobody else may read it before it has its own mode
    try:
        with open(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fchmod(opened.fileno(), mode)
            os.fsync(opened.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
