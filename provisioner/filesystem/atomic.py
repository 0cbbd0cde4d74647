"""Creation and atomic replacement of small files, relative to an open directory.

A reader of a file that is replaced finds the old content or the new, even after a crash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY, NEW_FILE, closing_on_error
from provisioner.filesystem.resolution import ResolvedPath, resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories

NAME_MAX = 255
"""The most bytes that a name has on file systems of Linux."""


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
    with closing_on_error(opened):
        os.fchmod(opened, mode)
    return opened


def replace_file(path: Path, data: bytes, mode: int, trust: TrustedDirectories = NOBODY) -> None:
    """Replace the content of `path` with `data` and its permission bits with `mode`.

    A symlink is followed, unless a stranger has made it. Raises OSError.
    """
    with _resolved_file(path, trust) as found:
        replace_in(found.directory, found.missing[0], data, mode)


def check_replaceable(path: Path, trust: TrustedDirectories = NOBODY) -> None:
    """Raise the OSError that `replace_file` would raise for a path, as far as that can be found out without writing."""
    with _resolved_file(path, trust) as found:
        temporary = _temporary_name(found.missing[0])
        os.close(os.open(temporary, NEW_FILE, 0o600, dir_fd=found.directory))
        os.unlink(temporary, dir_fd=found.directory)


@contextmanager
def _resolved_file(path: Path, trust: TrustedDirectories) -> Iterator[ResolvedPath]:
    """Resolve the path of a file, whether or not it is there. Raises OSError where it can't be one."""
    with resolved(path, trust, checks_directories=False) as found:
        if len(found.missing) != 1:
            number = errno.ENOENT if found.missing else errno.EISDIR
            raise OSError(number, os.strerror(number), str(path))
        yield found


def _temporary_name(name: str) -> str:
    """Return an unpredictable name for a file beside `name`."""
    return name_beside(name, f".{os.urandom(8).hex()}")


def name_beside(name: str, end: str) -> str:
    """Return a hidden name for a file beside `name`: that name, or as much of it as leaves space for `end`."""
    return name_with_end(f".{name}", end)


def name_with_end(name: str, end: str) -> str:
    """Return `name` followed by `end`. The name is cut where both are longer than names may be."""
    if len(os.fsencode(name + end)) <= NAME_MAX:
        return name + end
    # Half a character would be refused by file systems that want UTF-8.
    return os.fsencode(name)[: NAME_MAX - len(os.fsencode(end))].decode(errors="ignore") + end


def replace_in(directory: int, name: str, data: bytes, mode: int) -> None:
    """Replace the file `name` in an open directory.

    The data is written to a new file beside it, with an unpredictable name, synced, and renamed. Raises OSError.
    """
    temporary = _temporary_name(name)
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
