"""NAME|DIR on the command line: a container by its directory, or by the name of the directory alone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioner.catalogue import is_short
from provisioner.commands.similar import nearest
from provisioner.commands.trusting import trusted_directories
from provisioner.container.access import find_directory, trust_errors
from provisioner.container.directories import Directories, KnownDirectory, state_directory
from provisioner.container.opened import LIST_HINT, opened_container
from provisioner.container.recovery import staging_directory, was_interrupted
from provisioner.container.relocation import containers_in, find_unlisted
from provisioner.container_files import looks_provisioned
from provisioner.errors import NotFound, ProvisionError, UsageError
from provisioner.filesystem.resolution import resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.terminal.escaping import printable, shell_line, shell_word
from provisioner.terminal.progress import Console

_SHOWN_NAMES = 12
"""The most containers whose names are in a hint."""


def add_container_argument(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add NAME|DIR; `nargs` is that of argparse."""
    parser.add_argument(
        "container",
        metavar="NAME|DIR",
        nargs=nargs,
        help="a provisioned directory, or its name where `provision list` has one of that name only",
    )


def path_of_container(name: str, *, skips_others: bool = False) -> Path:
    """Return the path that a NAME|DIR means: as it was typed, or as `provision list` knows it.

    A path means itself. A name means whatever is called so in the current directory, or was when a run was killed, and
    where nothing is, the only known container of that name. With `skips_others`, nothing but a container counts in the
    current directory. Raises UsageError for an empty word, and where several containers have the name, and NotFound.
    """
    if not name:
        raise UsageError("NAME|DIR is empty", LIST_HINT)
    path = Path(name)
    if _is_name(name) and not (_is_container(path) if skips_others else _is_there(path)):
        return _known_directory(name)
    if not _is_there(path):
        raise no_directory(name)
    return path


def find_container(name: str, trust: TrustedDirectories) -> Path:
    """Return the absolute path of the directory that a NAME|DIR means, for commands that open it themselves.

    Raises as `path_of_container` and `find_directory` do.
    """
    return find_directory(path_of_container(name), trust)


def find_container_or_link(name: str, trust: TrustedDirectories) -> Path:
    """Return the absolute path that a NAME|DIR means, for commands that replace what has that name.

    The last name isn't followed as a symlink. Raises as `path_of_container` does, UsageError for the root directory,
    NotTrusted and MachineError.
    """
    path = path_of_container(name)
    with trust_errors(f"look at {printable(name)}"), resolved(path, trust, parents_only=True) as found:
        path = found.path
    if path == path.parent:
        raise UsageError(f"DIR can't be {shell_word(name)}", "name a directory that provision has made")
    return path


def checked_container(name: str, arguments: argparse.Namespace) -> Path:
    """Return the absolute path of the container that a NAME|DIR means, for commands that go by its start.sh.

    Something else of that name in the current directory doesn't count. Raises as `path_of_container` and
    `opened_container` do; the container need not have a record.
    """
    trust, path = trusted_directories(arguments), path_of_container(name, skips_others=True)
    directory = find_directory(path, trust)
    with opened_container(directory, trust, printable(str(path)), needs=()):
        return directory


def _is_name(text: str) -> bool:
    """Return whether a NAME|DIR may be a name, and is no path for sure."""
    return "/" not in text and text not in ("", ".", "..")


def _is_container(path: Path) -> bool:
    """Return whether a container is at a path, or is put back there when it is opened."""
    return looks_provisioned(path) or was_interrupted(path)


def _is_there(path: Path) -> bool:
    """Return whether anything is at a path, or was there when a run was killed that replaced or removed it."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.isdir(staging_directory(path))
    except OSError:  # whoever opens it says why
        pass
    return True


def check_order(command: Sequence[str], name: str, other: str, *rest: str) -> None:
    """Raise UsageError where the first of two words is nothing here, and the second is a container.

    `command` is the subcommand with its options, `rest` are the words behind both.
    """
    if not _is_there(Path(name)) and not is_known(name) and is_known(other):
        line = shell_line(["provision", *command, other, name, *rest])
        raise UsageError("NAME|DIR comes first", f"type {line}")


def is_known(name: str) -> bool:
    """Return whether a word is the path of a container, or the name of one that is known."""
    is_listed = _is_name(name) and name in [Path(directory).name for directory in _present_directories()]
    return is_listed or _is_container(Path(name))


def no_directory(name: str) -> NotFound:
    """Return the error for the path of a DIR at which nothing is; it names a container beside it that may be meant."""
    path = Path(name)
    near = nearest(path.name, [found.name for found in containers_in([path.parent])])
    meant = shell_word(os.path.join(os.path.dirname(name), near))
    return NotFound(f"there is no directory {printable(name)}", f"did you mean {meant}?" if near else LIST_HINT)


def say_similar_container(word: str, command: str, console: Console) -> None:
    """Where a word that is taken for an image is the name of a known container, or nearly, say what to type for that.

    `command` is the subcommand.
    """
    if found := _similar_container(word):
        line = shell_line(["provision", command, str(found)])
        console.step(f"{word} is taken for an image; for the container {printable(found.name)}: {line}")


def add_similar_container(error: ProvisionError, word: str) -> None:
    """Add to the hint of an error about a word that is no image how to start the container that may be meant."""
    if found := _similar_container(word):
        line = shell_line(["provision", "start", found.name])
        error.hint = f"{error.hint}; the container {printable(found.name)}: {line}"


def _similar_container(word: str) -> Path | None:
    """Return the known container whose name is a word that may be an image's, or is near to it; None for none."""
    present = list(map(Path, _present_directories())) if is_short(word) else []
    names = [directory.name for directory in present]
    near = word if word in names else nearest(word, names)
    return present[names.index(near)] if near else None


def _known_directory(name: str) -> Path:
    """Return the only directory of this name in the list of provisioned directories. Raises NotFound, UsageError."""
    present = _present_directories()
    found = [directory for directory in present if Path(directory).name == name]
    if len(found) > 1:
        raise UsageError(f"{printable(name)} is the name of {len(found)}", f"name one: {printable(', '.join(found))}")
    if found:
        return Path(found[0])
    names = sorted({Path(directory).name for directory in present})
    hint = f"there are {', '.join(map(printable, names))}" if names else "make it: provision IMAGE DIR"
    if len(names) > _SHOWN_NAMES:
        hint = f"there are {len(names)} others: provision list"
    if near := nearest(name, names):
        hint = f"did you mean {printable(near)}? All of them: provision list"
    raise NotFound(f"there is no container {printable(name)}", hint)


def _present_directories() -> list[str]:
    """Return the provisioned directories that are known, at their places of today; nothing where there is no list."""
    entries: list[KnownDirectory] = []
    with suppress(OSError):
        entries = Directories(state_directory()).entries()
    present = [entry.directory for entry in entries if _is_container(Path(entry.directory))]
    moved = {entry.id for entry in entries if entry.id and entry.directory not in present}
    if moved:
        folders = [Path.cwd(), *(Path(entry.directory).parent for entry in entries)]
        present += [entry.directory for entry in find_unlisted(folders, moved, present, NOBODY)]
    return present
