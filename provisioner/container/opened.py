"""Opening a provisioned directory that a user has named, or saying what is there instead."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from provisioner.container.access import look_errors, open_folder
from provisioner.container.mounted import mount_hint
from provisioner.container.record import Record
from provisioner.container_files import OWNERSHIP_RECORD, RECORD, looks_provisioned
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, NotFound, ProvisionError, TargetExists
from provisioner.filesystem.descriptors import DIRECTORY, DIRECTORY_LOCATION, closing_descriptor
from provisioner.filesystem.resolution import resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.terminal.escaping import printable, shell_word

LIST_HINT = "see all that are known: provision list"
"""What helps where a DIR is no provisioned directory."""


class OpenedContainer(NamedTuple):
    """A provisioned directory while it is open."""

    path: Path
    shown: str
    """Its name for messages."""
    top: int
    """The descriptor of the directory."""
    folder: int
    """The descriptor of its FOLDER."""

    def read_record(self) -> Record:
        """Return its record. Raises TargetExists where there is none, MachineError for one that can't be read."""
        record = Record.read_from(self.folder, self.path)
        if record is None:
            raise _no_container(self.path, self.shown)
        return record

    def check_ownership_record(self) -> None:
        """Raise MachineError where there is no ownership record, or none that this user may read."""
        if not os.access(OWNERSHIP_RECORD, os.R_OK, dir_fd=self.folder):
            raise MachineError(f"{self.shown} has no record of owners", PROVISION_ELSEWHERE)


@contextmanager
def opened_container(
    directory: Path, trust: TrustedDirectories = NOBODY, shown: str = "", *, needs: Sequence[str] = (RECORD,)
) -> Iterator[OpenedContainer]:
    """Open a provisioned directory for the context.

    `directory` is an absolute path, whose last name isn't followed as a symlink, and `shown` its name for messages.
    One of the files `needs` has to be in FOLDER, if there are any; what is in it isn't looked at. Raises NotFound where
    nothing is at the path, TargetExists for what provision hasn't made, NotTrusted, and MachineError.
    """
    shown = shown or printable(str(directory))
    with look_errors(directory), resolved(directory, trust, parents_only=True) as found:
        name = found.missing[-1] if found.missing else "."
        try:
            if len(found.missing) > 1:
                raise FileNotFoundError
            top = _open(name, found.directory, directory, trust)
        except FileNotFoundError:
            raise _no_container(directory, shown) from None
        except NotADirectoryError:
            raise _no_directory(found.directory, name, directory, shown) from None
    with closing_descriptor(top):
        with look_errors(directory):
            folder = open_folder(top, directory, trust)
        if folder is None:
            raise _no_container(directory, shown)
        with closing_descriptor(folder):
            with look_errors(directory):
                has_one = not needs or any(is_file(folder, needed) for needed in needs)
            if not has_one:
                raise _no_container(directory, shown)
            yield OpenedContainer(directory, shown, top, folder)


def _open(name: str, parent: int, path: Path, trust: TrustedDirectories) -> int:
    """Open the directory `name` in an open one; `path` is its path.

    Raises Untrusted for another user's that may not be read, and OSError.
    """
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        with closing_descriptor(os.open(name, DIRECTORY_LOCATION, dir_fd=parent)) as location:
            if (folder := open_folder(location, path, trust)) is not None:
                os.close(folder)
        raise


def _no_container(directory: Path, shown: str) -> ProvisionError:
    """Return the error for a `directory` without a record; `shown` is its name for messages.

    NotFound where nothing is there, TargetExists where something is that provision hasn't made, or of which the record
    is gone.
    """
    if not os.path.exists(directory):
        return NotFound(f"there is no directory {shown}", LIST_HINT)
    if looks_provisioned(directory):
        return incomplete(shown, PROVISION_ELSEWHERE + mount_hint(directory))
    return TargetExists(f"{shown} was not made by provision", _hint_for(directory) + mount_hint(directory))


def incomplete(shown: str, hint: str) -> TargetExists:
    """Return the error for a directory with a FOLDER that has no record; `shown` is its name for messages."""
    return TargetExists(f"{shown} is incomplete: its record is missing, so nobody knows what it was made from", hint)


def is_file(folder: int, name: str) -> bool:
    """Return whether a regular file with this name is in an open directory. Raises OSError."""
    with suppress(FileNotFoundError):
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _no_directory(parent: int, name: str, path: Path, shown: str) -> TargetExists:
    """Return the error for what is at `name` in an open directory and is no directory. Raises OSError."""
    if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        target = printable(os.readlink(name, dir_fd=parent))
        return TargetExists(f"{shown} is a symlink to {target}", "name the directory itself")
    return TargetExists(f"{shown} is not a directory", _hint_for(path))


def _hint_for(path: Path) -> str:
    """Return what to name instead of a path that is no provisioned directory: the one that it is in, if any."""
    above = next((part for part in path.parents if looks_provisioned(part)), None)
    return f"name the directory: {shell_word(str(above))}" if above else LIST_HINT
