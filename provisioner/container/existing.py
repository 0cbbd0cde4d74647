"""What is where a directory is to be created: nothing, a provisioned directory with its record, or something else."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.container.access import open_folder, trust_errors
from provisioner.container.mounted import mount_hint
from provisioner.container.opened import incomplete, is_file
from provisioner.container.record import Record
from provisioner.container_files import OWNERSHIP_RECORD
from provisioner.errors import TargetExists
from provisioner.filesystem.descriptors import DIRECTORY, DIRECTORY_LOCATION, closing_descriptor
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.resolution import resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.terminal.escaping import printable, shell_word


def existing_record(directory: Path, trust: TrustedDirectories = NOBODY) -> Record | None:
    """Return the record of a provisioned directory, None where `directory` doesn't exist or is empty.

    Raises TargetExists for anything else that is there, and NotTrusted where others could have changed it.
    """
    with (
        trust_errors(f"look at {printable(str(directory))}"),
        resolved(directory, trust, parents_only=True) as found,
    ):
        return None if len(found.missing) > 1 else record_in(found.directory, directory, trust)


def record_in(parent: int, directory: Path, trust: TrustedDirectories = NOBODY) -> Record | None:
    """Return the record of `directory`, whose parent is open, as `existing_record` does. Raises as that does."""
    shown = printable(str(directory))
    with trust_errors(f"look at {shown}"):
        try:
            opened = os.open(directory.name, DIRECTORY_LOCATION, dir_fd=parent)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise TargetExists(
                f"{shown} exists and is not a directory", "choose another directory, or move it away"
            ) from None
        with closing_descriptor(opened):
            return _record_of(opened, directory, trust)


def _record_of(opened: int, directory: Path, trust: TrustedDirectories) -> Record | None:
    """Return the record of an open directory, of O_PATH; None where it is empty. Raises as `existing_record` does."""
    shown = printable(str(directory))
    with closing_descriptor(os.open(".", DIRECTORY, dir_fd=opened)) as listed:
        if next(names_in(listed), None) is None:
            if os.path.samestat(os.fstat(opened), os.stat(".")):
                raise TargetExists(f"{shown} is the current directory", "name a directory below it")
            return None
    folder = open_folder(opened, directory, trust)
    if folder is None:
        raise TargetExists(
            f"{shown} is not empty and was not made by provision",
            f"choose another directory, or empty it yourself{mount_hint(directory)}",
        )
    with closing_descriptor(folder):
        if (record := Record.read_from(folder, directory)) is not None:
            return record
        if not is_file(folder, OWNERSHIP_RECORD):  # then `provision remove` refuses it, too
            raise incomplete(shown, f"choose another directory, or move it away{mount_hint(directory)}")
        remove = f"provision remove {shell_word(str(directory))}"
        raise incomplete(shown, f"choose another directory; to remove this one: {remove}{mount_hint(directory)}")
