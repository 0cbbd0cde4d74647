"""Finds provisioned directories that were moved or copied with tools that know nothing of `provision list`.

They are recognised by the id in their record, and looked for beside the directories that are known.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from provisioner.container.access import opened_directory
from provisioner.container.directories import KnownDirectory
from provisioner.container.record import Record
from provisioner.container_files import FOLDER, looks_provisioned
from provisioner.errors import MachineError, NotTrusted
from provisioner.filesystem.trust import TrustedDirectories

_MOST_ENTRIES = 2000
"""How many entries of each directory are looked at."""


def find_unlisted(
    folders: Iterable[Path], ids: Collection[str], known: Collection[str], trust: TrustedDirectories
) -> list[KnownDirectory]:
    """Return the directories in `folders` whose record has one of `ids`, but for those that are `known`.

    What can't be read, or isn't trusted, is left out.
    """
    found = []
    for path in containers_in(folders):
        if str(path) in known:
            continue
        with suppress(OSError, MachineError, NotTrusted), opened_directory(path, trust) as folder:
            record = None if folder is None else Record.read_from(folder, path)
            if record and record.id in ids:
                found.append(KnownDirectory(str(path), record.reference, record.id))
    return found


def containers_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the directories in `folders` that have a FOLDER, by name; nothing of a folder that can't be read."""
    for folder in dict.fromkeys(folders):
        with suppress(OSError), os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in islice(entries, _MOST_ENTRIES)
                if entry.is_dir(follow_symlinks=False) and not _is_staging(entry.name)
            ]
            for name in sorted(names):
                if looks_provisioned(folder / name):
                    yield folder / name


def _is_staging(name: str) -> bool:
    """Return whether a name is that of a directory in which a run is at work."""
    return name.startswith(".") and name.endswith(FOLDER)
