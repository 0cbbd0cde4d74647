"""NAME|DIR on the command line: a container by its directory, or by the name of the directory alone."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path

from provisioner.commands.trusting import trusted_directories
from provisioner.container.access import FOLDER, find_directory, opened_directory
from provisioner.container.directories import Directories, KnownDirectory, state_directory
from provisioner.container.record import no_container
from provisioner.container.recovery import staging_directory, was_interrupted
from provisioner.container.relocation import find_unlisted
from provisioner.errors import NotFound, UsageError
from provisioner.filesystem.trust import NOBODY
from provisioner.terminal.escaping import printable


def add_container_argument(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add NAME|DIR; `nargs` is that of argparse."""
    parser.add_argument(
        "container",
        metavar="NAME|DIR",
        nargs=nargs,
        help="a provisioned directory, or its name where `provision list` has one of that name only",
    )


def find_container(arguments: argparse.Namespace) -> Path:
    """Return the directory of the container that `arguments.container` names, for commands that take one NAME|DIR.

    Raises as `container_called` does.
    """
    return container_called(arguments.container, arguments)


def container_called(name: str, arguments: argparse.Namespace) -> Path:
    """Return the directory of the container with this name or path.

    A directory of that name in the current one comes before others. Raises NotFound where there is none, TargetExists
    for one that provision hasn't made, UsageError where there are several, and NotTrusted where others could have
    changed it.
    """
    if not name:
        raise UsageError("NAME|DIR is empty", "see all that are known: provision list")
    path = Path(name)
    if "/" not in name and name not in ("", ".", "..") and not _is_container(path):
        path = _known_directory(name)
    trust = trusted_directories(arguments)
    directory = find_directory(path, trust)
    with opened_directory(directory, trust) as folder:
        if folder is None:
            above = next((part for part in path.parents if (part / FOLDER).is_dir()), None)
            hint = f"name the directory: {printable(str(above))}" if above else "all that are known: provision list"
            raise no_container(directory, printable(str(path)), hint)
    return directory


def _is_container(path: Path) -> bool:
    """Return whether a container is at a path, or is put back there when it is opened."""
    return (path / FOLDER).is_dir() or was_interrupted(path)


def path_of_container(name: str) -> Path:
    """Return the path that a NAME|DIR means, for commands that look at it themselves.

    What is at that path comes before others of the name, whatever it is, and what a killed run has left of it as well.
    Raises NotFound and UsageError as `find_container` does.
    """
    is_name = "/" not in name and name not in ("", ".", "..")
    if is_name and not os.path.lexists(name) and not os.path.isdir(staging_directory(Path.cwd() / name)):
        return _known_directory(name)
    return Path(name)


def _known_directory(name: str) -> Path:
    """Return the only directory of this name in the list of provisioned directories."""
    entries: list[KnownDirectory] = []
    with suppress(OSError):  # there is no list
        entries = Directories(state_directory()).entries()
    present = [entry.directory for entry in entries if _is_container(Path(entry.directory))]
    moved = {entry.id for entry in entries if entry.id and entry.directory not in present}
    if moved:
        folders = [Path.cwd(), *(Path(entry.directory).parent for entry in entries)]
        present += [entry.directory for entry in find_unlisted(folders, moved, present, NOBODY)]
    found = [directory for directory in present if Path(directory).name == name]
    if len(found) > 1:
        raise UsageError(f"{printable(name)} is the name of {len(found)}", f"name one: {printable(', '.join(found))}")
    if found:
        return Path(found[0])
    names = ", ".join(sorted({printable(Path(directory).name) for directory in present}))
    hint = f"there are {names}" if names else "make it: provision IMAGE DIR"
    raise NotFound(f"there is no container {printable(name)}", hint)
