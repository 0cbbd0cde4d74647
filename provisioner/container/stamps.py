"""What a provisioned directory knows of its stamps for make(1): when it was changed, and which files say so.

Two files of FOLDER: `changed` is empty, and its time is that of the last change; `stamps` is JSON with the path of the
directory and the absolute paths of the stamps, which count only where the directory is still at that path.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from provisioner.container.access import opened_directory, read_file
from provisioner.container_files import CHANGED, FOLDER, RECORD, STAMPS
from provisioner.errors import MachineError, ProvisionError
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.trust import NOBODY, TrustedDirectories

_MOST = 1000
"""How many stamps a directory remembers."""


def is_stamp(path: Path) -> bool:
    """Return whether an empty regular file is at a path, symlinks not followed."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and not status.st_size


def touch(path: Path | str, folder: int | None = None) -> None:
    """Create a file, in `folder` if that is given, or give it the present time; follow no symlink. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with closing_descriptor(os.open(path, flags, 0o666, dir_fd=folder)) as file:
        os.utime(file)


def recorded_stamps(folder: int, directory: Path) -> list[Path]:
    """Return the stamps that the open FOLDER of `directory` names; none where they are of another path's."""
    value: Any = None
    with suppress(ValueError, RecursionError, MachineError):
        value = json.loads(read_file(folder, STAMPS, f"{FOLDER}/{STAMPS}") or b"null")
    if not isinstance(value, dict) or value.get("directory") != str(directory):
        return []
    names = value.get("stamps")
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [Path(name) for name in found if os.path.isabs(name) and "\0" not in name]


def find_stamps(directory: Path, trust: TrustedDirectories = NOBODY) -> list[Path]:
    """Return the stamps of a provisioned directory; none where there is no such directory."""
    with suppress(ProvisionError), opened_directory(directory, trust) as folder:
        return [] if folder is None else recorded_stamps(folder, directory)
    return []


def remember_stamps(folder: int, directory: Path, stamps: Iterable[Path]) -> None:
    """Write down the stamps of `directory` in its open FOLDER, in place of others. Raises OSError."""
    names = sorted({str(path) for path in stamps})[:_MOST]
    text = json.dumps({"directory": str(directory), "stamps": names}, indent=2)
    replace_in(folder, STAMPS, text.encode() + b"\n", 0o644)


def note_change(folder: int, directory: Path, *, is_new: bool = False) -> None:
    """Write down that `directory`, whose FOLDER is open, was changed now, and touch those of its stamps that are there.

    One that is new has that time already. Raises OSError where `changed` can't be written.
    """
    if not is_new:
        touch(CHANGED, folder)
    for path in recorded_stamps(folder, directory):
        if is_stamp(path):
            with suppress(OSError):  # the next run that is to write this stamp reports it
                touch(path)


def last_change(folder: int) -> int:
    """Return when a directory was changed last, in nanoseconds since 1970: at least when its record was written.

    Raises OSError where there is no record.
    """
    times = []
    for name in (RECORD, CHANGED):
        with suppress(FileNotFoundError):
            times.append(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns)
    return max(times)


def remove_stamps(stamps: Iterable[Path]) -> list[Path]:
    """Remove those of these files that are stamps, and return them."""
    removed = []
    for path in stamps:
        if is_stamp(path):
            with suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
