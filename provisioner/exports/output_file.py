"""A file that appears when it is complete, or the standard output: where archives are written to."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provisioner.container.access import trust_errors
from provisioner.errors import TargetExists, UsageError, machine_errors
from provisioner.filesystem.atomic import name_beside
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor, closing_on_error
from provisioner.filesystem.locks import try_lock
from provisioner.filesystem.resolution import ResolvedPath, resolve
from provisioner.filesystem.sync import sync_directory
from provisioner.terminal.escaping import printable

STANDARD_OUTPUT = "-"
_PART = ".provision-part"


@contextmanager
def output_file(name: str, *, sync: bool = True) -> Iterator[int]:
    """Open the file `name` for the context, which replaces an older one at its end; `-` is standard output.

    Until then it has another name; a file of that name that a killed run has left is written over. What is no regular
    file, such as a FIFO, is written to as it is. With `sync` the file is on the disk at the end. Raises UsageError for
    a terminal and for nothing, TargetExists where another run writes the same file, and MachineError.
    """
    if name == STANDARD_OUTPUT:
        if sys.__stdout__ is None:  # cli has opened something else in its place
            raise UsageError("standard output is closed", "name a file, or pipe it: provision … - | ssh …")
        if sys.stdout.isatty():
            raise UsageError("an archive is not for a terminal", "name a file, or pipe it: provision … - | ssh …")
        yield sys.stdout.fileno()
        return
    shown = printable(name)
    # What the block raises is about something else.
    with trust_errors(f"write {shown}"):
        found = resolve(name, checks_directories=False)
    try:
        with machine_errors(f"write {shown}"):
            special = _open_special(found)
        if special is not None:
            with closing_descriptor(special):
                yield special
            return
        if len(found.missing) != 1:
            raise UsageError(f"{shown} is a directory, or in one that isn't there", "name a file")
        part = name_beside(found.missing[0], _PART)
        with machine_errors(f"write {shown}"):
            opened = _open_part(found.directory, part, shown)
        with closing_descriptor(opened):
            try:
                yield opened
                with machine_errors(f"write {shown}"):
                    if sync:
                        os.fsync(opened)
                    os.rename(part, found.missing[0], src_dir_fd=found.directory, dst_dir_fd=found.directory)
                    if sync:
                        _sync(found)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=found.directory)
                raise
    finally:
        os.close(found.directory)


def check_not_below(name: str, directory: Path) -> None:
    """Raise UsageError where the file `name` would be in the directory that goes into it."""
    if name != STANDARD_OUTPUT and Path(os.path.realpath(name)).is_relative_to(directory):
        raise UsageError(f"{printable(name)} would be in the directory that goes into it", "name a file outside of it")


def _open_special(found: ResolvedPath) -> int | None:
    """Open what is no regular file and no directory; return None for these, and where nothing is."""
    if len(found.missing) != 1:
        return None
    try:
        mode = os.stat(found.missing[0], dir_fd=found.directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
        return None
    return os.open(found.missing[0], os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.directory)


def _open_part(directory: int, part: str, shown: str) -> int:
    """Create and lock the file that becomes the archive, for this user alone. Raises OSError, TargetExists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    opened = os.open(part, flags, 0o600, dir_fd=directory)
    with closing_on_error(opened):
        state = os.fstat(opened)
        is_ours = stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid() and state.st_nlink == 1
        if not is_ours or not try_lock(opened):
            raise TargetExists(f"another run writes {shown}, or {part} isn't yours", "wait, or choose another name")
        if not os.path.samestat(state, os.stat(part, dir_fd=directory, follow_symlinks=False)):
            raise TargetExists(f"another run has just written {shown}", "try again")
        os.ftruncate(opened, 0)
    return opened


def _sync(found: ResolvedPath) -> None:
    """Have the name on the disk, if the directory may be opened."""
    with suppress(PermissionError):
        listed = os.open(".", DIRECTORY, dir_fd=found.directory)
        with closing_descriptor(listed):
            sync_directory(listed)
