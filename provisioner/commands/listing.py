"""`provision list`: the directories that were provisioned on this machine, and what runs in each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.commands.output import NAMES_ALONE, screen_of, write_json, write_lines
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.access import opened_directory
from provisioner.container.directories import Directories, KnownDirectory, state_directory
from provisioner.container.processes import find_processes
from provisioner.container.record import Record
from provisioner.container.recovery import staging_directory
from provisioner.container.relocation import find_unlisted
from provisioner.container.removing import was_removed_partly
from provisioner.container.sessions import find_sessions
from provisioner.container_files import MANIFEST, RECORD
from provisioner.errors import MachineError, NotTrusted, machine_errors
from provisioner.filesystem.times import local_time, utc_time
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.platform import host_platform
from provisioner.launch.renewal import find_outdated
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.tables import Column, Style, table

HELP = "List the directories made on this machine, and what is running"
EXAMPLE = "provision list"
QUIET = NAMES_ALONE

_STYLES: Mapping[str, Style] = {
    "running": Style.GREEN,
    "gone": Style.YELLOW,
    "part": Style.YELLOW,
    "trusted": Style.RED,
    "unreadable": Style.RED,
}
"""The style of a state, by its last word."""
_COLUMNS = (
    Column("DIRECTORY"),
    Column("IMAGE", flexible=True),
    Column("PLATFORM", optional=True),
    Column("DOWNLOAD", "{} download", right=True, optional=True),
    Column("PROVISIONED", optional=True),
    Column("STATE", style=lambda text: _STYLES.get(text.split(",")[0].split()[-1], Style.PLAIN)),
    Column("NOTE", flexible=True, below=True),
)


@dataclass(frozen=True)
class _Row:
    """One directory."""

    entry: KnownDirectory
    processes: tuple[int, ...]
    """The process ids of what runs in it."""
    sessions: tuple[int, ...]
    """The process ids of the starts that these belong to."""
    is_gone: bool = False
    """Whether there is no record of a provisioned image in the directory any more."""
    record: Record | None = None
    """None where it is missing or can't be read."""
    time: float = 0.0
    """When it was provisioned, in seconds since the epoch."""
    is_outdated: bool = False
    """Whether an older version wrote its start.sh, helper or filters."""
    distrust: NotTrusted | None = None
    """Why the directory, and so its record, can't be relied on; None where it can."""
    made: float = 0.0
    """When the directory was provisioned, or copied, in seconds since the epoch."""
    is_new: bool = False
    """Whether it wasn't in the list."""
    moved_from: str = ""
    """Where it was when it was listed the last time; empty where it hasn't moved."""
    left: str = ""
    """Where a removal that couldn't end has left files; empty elsewhere."""
    copy_of: str = ""
    """The directory whose id it has; empty where it has one of its own."""

    @property
    def id(self) -> str:
        """The id in its record, or the one that it had."""
        return self.record.id if self.record else self.entry.id

    @property
    def note(self) -> str:
        """Whether it was moved or is a copy, in words."""
        if self.left:
            return f"files are left: provision remove {shell_word(self.entry.directory)}"
        if self.copy_of:
            return f"copy of {self.copy_of}"
        return f"moved from {self.moved_from}" if self.moved_from else ""

    @property
    def state(self) -> str:
        """`gone`, `not trusted`, `idle`, `unreadable`, or how many starts of it run; and whether start.sh is old."""
        if self.left:
            return "removed in part"
        if self.is_gone:
            return "gone"
        if self.distrust:
            return "not trusted"
        state = f"{len(self.sessions)} running" if self.sessions else "idle" if self.record else "unreadable"
        return f"{state}, old start.sh" if self.is_outdated else state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the directories. Those that are gone are shown once, and then forgotten.

    Raises MachineError; NotTrusted, when all are shown, for a directory that others could have changed.
    """
    trust = trusted_directories(arguments)
    with machine_errors("read the list of directories"):
        directories = Directories(state_directory())
        entries = directories.entries()
    rows = _related(_with_unlisted(_rows(entries, trust), trust))
    gone = [
        entry
        for entry in entries
        if entry.directory not in {row.entry.directory for row in rows if not row.is_gone or row.left}
    ]
    new = [row.entry for row in rows if not row.is_gone and row.entry not in entries]
    screen = screen_of(arguments)
    if arguments.json:
        write_json({"directories": [_as_json(row) for row in rows]})
    elif screen.width is None or arguments.quiet:
        write_lines(printable(row.entry.directory) for row in rows if not row.is_gone)
    else:
        write_lines(table(_COLUMNS, list(_cells(rows)), screen))
    if gone or new:
        with suppress(OSError):  # then they are shown again
            directories.update(gone, new)
    if distrust := next((row.distrust for row in rows if row.distrust), None):
        raise distrust
    return 0


def _with_unlisted(rows: list[_Row], trust: TrustedDirectories) -> list[_Row]:
    """Return the rows, and those of directories beside them that have their ids: moved ones and copies."""
    ids = {row.id for row in rows} - {""}
    if not ids:
        return rows
    known = {row.entry.directory for row in rows}
    folders = [Path(directory).parent for directory in known]
    with suppress(OSError):  # the current directory was removed
        folders.append(Path.cwd())
    return [*rows, *_rows(find_unlisted(sorted(folders), ids, known, trust), trust, are_listed=False)]


def _related(rows: list[_Row]) -> list[_Row]:
    """Return the rows with what was moved and what is a copy; a directory that was moved has one row.

    Of several with the same id, the one that was listed is the original, else the oldest.
    """
    result = []
    for row in rows:
        if not row.id:
            result.append(row)
            continue
        same = [other for other in rows if other.id == row.id]
        present = sorted((other for other in same if not other.is_gone), key=lambda other: (other.is_new, other.made))
        is_moved = bool(present) and present[0].is_new
        if row.is_gone:
            if not is_moved:
                result.append(row)
            continue
        content = next((other.entry.content for other in same if other.entry.content), "")
        entry = replace(row.entry, id=row.id, content=content)
        if row is not present[0]:
            result.append(replace(row, entry=entry, copy_of=present[0].entry.directory))
            continue
        gone = [other.entry.directory for other in same if other.is_gone]
        result.append(replace(row, entry=entry, moved_from=gone[0] if gone and is_moved else ""))
    return result


def _rows(entries: list[KnownDirectory], trust: TrustedDirectories, *, are_listed: bool = True) -> list[_Row]:
    """Return a row for each entry."""
    processes = find_processes([Path(entry.directory) for entry in entries])
    return [_row(entry, processes[Path(entry.directory)], trust, is_new=not are_listed) for entry in entries]


def _row(entry: KnownDirectory, processes: Sequence[int], trust: TrustedDirectories, *, is_new: bool) -> _Row:
    """Return the row for an entry, with as much as can be read of its directory."""
    directory = Path(entry.directory)
    row = _Row(entry, tuple(processes), tuple(find_sessions(directory, processes)), is_new=is_new)
    try:
        with suppress(OSError, MachineError), opened_directory(directory, trust) as folder:
            record = None if folder is None else Record.read_from(folder, directory)
            if record is None:
                left = str(staging_directory(directory)) if was_removed_partly(directory) else ""
                return replace(row, is_gone=True, left=left)
            row = replace(row, record=record, time=os.stat(RECORD, dir_fd=folder).st_mtime)
            # No later command changes the manifest of a directory.
            row = replace(row, made=os.stat(MANIFEST, dir_fd=folder).st_ctime)
            row = replace(row, is_outdated=bool(find_outdated(directory, host_platform()).names))
    except NotTrusted as error:
        return replace(row, distrust=error)
    return row


def _cells(rows: list[_Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if row.record is None:
            yield row.entry.directory, row.entry.reference, "", "", "", row.state, row.note
            continue
        record, size, when = row.record, size_text(row.record.download_size), local_time(row.time)
        yield row.entry.directory, record.reference, record.platform, size, when, row.state, row.note


def _as_json(row: _Row) -> dict[str, object]:
    """Return a row as `--json` prints it."""
    record = row.record
    return {
        "directory": row.entry.directory,
        "reference": record.reference if record else row.entry.reference,
        "platform": record.platform if record else None,
        "download_size": record.download_size if record else None,
        "provisioned": utc_time(row.time) if record else None,
        "id": row.id or None,
        "moved_from": row.moved_from or None,
        "copy_of": row.copy_of or None,
        "left": row.left or None,
        "is_gone": row.is_gone,
        "is_outdated": row.is_outdated,
        "is_trusted": not row.distrust,
        "processes": list(row.processes),
        "sessions": list(row.sessions),
    }
