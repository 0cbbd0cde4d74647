"""Removal of directory trees of any depth and with any permissions."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.filesystem.descriptors import DIRECTORY, change_mode, closing_descriptor

_ENCODING = sys.getfilesystemencoding()
_PAUSES = (0.01, 0.05, 0.3, 1.0)
"""Seconds between tries to remove a directory that isn't empty though all in it was removed."""


def remove_tree(parent: int, name: bytes) -> None:
    """Remove the directory `name` of the open directory `parent`, with everything in it.

    FUSE renames a file whose closing it hasn't handled yet (`.fuse_hidden…`) and removes it a moment later, so a
    directory that isn't empty is tried again. Raises OSError; EXDEV for a directory of another file system, such as a
    subvolume of btrfs, which is left alone.
    """
    for seconds in _PAUSES:
        try:
            return _remove_tree(parent, name)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        time.sleep(seconds)
    return _remove_tree(parent, name)


def _remove_tree(parent: int, name: bytes) -> None:
    """Remove a directory with everything in it. Raises OSError.

    Each subdirectory is moved up to the top before it is emptied: so neither the depth of a hostile tree nor the number
    of open files matters, and a mount point, which can't be moved, is left with everything that is mounted there.
    """
    unused = os.urandom(8).hex().encode()
    numbers = itertools.count()
    with _open_writable(name, parent) as top:
        device = os.fstat(top).st_dev
        directories = _empty(top, top, unused, numbers, device)
        while directories:
            directory = directories.pop()
            with _open_writable(directory, top, device) as opened:
                directories += _empty(opened, top, unused, numbers, device)
            os.rmdir(directory, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


def empty_directory(directory: int) -> None:
    """Remove everything in an open directory. Raises OSError."""
    for name in names_in(directory):
        remove_name(directory, name)


def remove_name(directory: int, name: bytes) -> None:
    """Remove the file `name` of an open directory, a directory with everything in it. Raises OSError."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        remove_tree(directory, name)


def names_in(directory: int) -> Iterator[bytes]:
    """Yield the names in an open directory while it is read, so that they take no memory however many there are.

    Each may be removed before the next is asked for. Names that came after the directory was opened are there, too: it
    is opened once more, since btrfs and file systems of FUSE yield what was there when a descriptor was opened.
    """
    with closing_descriptor(os.open(".", DIRECTORY, dir_fd=directory)) as opened, os.scandir(opened) as entries:
        for entry in entries:
            yield entry.name.encode(_ENCODING, "surrogateescape")  # os.fsencode takes three times as long


def _empty(directory: int, top: int, unused: bytes, numbers: Iterator[int], device: int) -> list[bytes]:
    """Remove the files of `directory`, move its subdirectories to `top`, and return the names that they have there.

    The new names begin with `unused`. Raises OSError with EXDEV for one that isn't of the file system `device`.
    """
    moved = []
    for name in names_in(directory):
        if name.startswith(unused):  # moved here just now
            continue
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            above = b"%s-%d" % (unused, next(numbers))
            with _open_writable(name, directory, device):  # only a writable directory can be moved
                os.rename(name, above, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(above)
    return moved


@contextmanager
def _open_writable(name: bytes, parent: int, device: int | None = None) -> Iterator[int]:
    """Open the directory `name`, with permissions added that are needed to empty and to move it.

    Raises OSError with EXDEV where it isn't of the file system `device`, unless that is None.
    """
    try:
        directory = os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        change_mode(parent, name, 0o700)
        directory = os.open(name, DIRECTORY, dir_fd=parent)
    with closing_descriptor(directory):
        state = os.fstat(directory)
        if device is not None and state.st_dev != device:
            raise OSError(errno.EXDEV, "it is of another file system", os.fsdecode(name))
        if state.st_mode & 0o700 != 0o700:
            os.fchmod(directory, 0o700)
        yield directory
