"""How many ids the user namespaces of a container have, by the file IDS in FOLDER, and to whom its files belong.

The file is there where they have many. Its first line is `many`. The second one is the first of these ids: start.sh
adds it when it has given the files their owners.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from provisioner.container.access import read_file
from provisioner.container_files import FOLDER, IDS
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor

MANY_IDS = b"many\n"
"""The content of the file before the first start."""


class Ids(NamedTuple):
    """What the file says."""

    are_many: bool
    first: int | None
    """The first of the subordinate ids to which files belong; None where files don't belong to such ids."""

    @classmethod
    def parse(cls, text: bytes) -> Ids:
        """Return what a file with this content says: one id, if it is empty or something else."""
        word, _, rest = text.partition(b"\n")
        first = re.match(rb"([0-9]{1,10})(?:\n|\Z)", rest)
        return cls(word == b"many", int(first[1]) if word == b"many" and first else None)


def read_ids(folder: int) -> Ids:
    """Return what the file in an open FOLDER says. Raises MachineError."""
    return Ids.parse(read_file(folder, IDS, f"{FOLDER}/{IDS}") or b"")


def read_ids_of(directory: Path) -> Ids:
    """Return what the file of a directory says, which need not be there. Raises OSError and MachineError."""
    with suppress(FileNotFoundError), closing_descriptor(os.open(directory / FOLDER, DIRECTORY)) as folder:
        return read_ids(folder)
    return Ids.parse(b"")
