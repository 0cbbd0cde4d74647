"""How many files an ownership record names, and how large they are."""

from __future__ import annotations

import os
from typing import NamedTuple

from provisioner.container_files import OWNERSHIP_RECORD
from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import ANY_FILE
from provisioner.filesystem.kind import Kind
from provisioner.ownership.mtree import parse_entries


class TreeTotals(NamedTuple):
    """What the files of an image take when they are unpacked."""

    files: int
    """The number of all entries, also directories and links."""
    size: int
    """The bytes of regular files; those with several names count once."""
    directories: int = 0
    """How many of the entries are directories."""


def recorded_totals(folder: int) -> TreeTotals | None:
    """Return the totals of the record in an open folder; None where it is missing or can't be read."""
    count, directories, size = 0, 0, 0.0
    try:
        with open(os.open(OWNERSHIP_RECORD, ANY_FILE, dir_fd=folder), "rb") as record:
            for entry in parse_entries(record):
                if entry is not None:
                    count += 1
                    directories += entry.kind is Kind.DIRECTORY
                    # Each name of a file states how many names it has.
                    size += entry.size / max(entry.links, 1)
    except (OSError, MachineError):
        return None
    return TreeTotals(count, round(size), directories)
