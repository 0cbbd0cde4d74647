"""`provision list`: what was provisioned on this machine, and what is running."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.commands.output import write_json, write_lines
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.access import opened_directory
from provisioner.container.directories import Directories, KnownDirectory, state_directory
from provisioner.container.processes import running
from provisioner.container.record import Record
from provisioner.errors import MachineError, NotTrusted, machine_errors
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Column, Screen, table

HELP = "List what was provisioned on this machine, and what is running: provision list"

_COLUMNS = (
    Column("DIRECTORY"),
    Column("IMAGE", flexible=True),
    Column("PLATFORM", optional=True),
    Column("DOWNLOAD", "{} download", right=True, optional=True),
    Column("PROVISIONED", optional=True),
    Column("STATE"),
)


@dataclass(frozen=True)
class _Row:
    """One directory. Where its record is missing or can't be read, that is None; `time` is since the epoch."""

    entry: KnownDirectory
    is_gone: bool
    record: Record | None
    time: float
    processes: tuple[int, ...]
    distrust: NotTrusted | None = None
    """Why the directory, and so its record, can't be relied on."""

    @property
    def size(self) -> int:
        """The bytes of the image's layers, as they are downloaded."""
        return sum(layer.size for layer in self.record.layers) if self.record else 0

    @property
    def state(self) -> str:
        """What becomes of it now, in a word or two."""
        if self.is_gone:
            return "gone"
        if self.distrust:
            return "not trusted"
        return f"{len(self.processes)} running" if self.processes else "idle" if self.record else "unreadable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a listing."""
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the directories. What is gone is shown once, and then forgotten.

    Raises MachineError; NotTrusted, when all is shown, for a directory that others could have changed.
    """
    trust = trusted_directories(arguments)
    with machine_errors("read the list of directories"):
        directories = Directories(state_directory())
        entries = directories.entries()
    rows = _rows(entries, trust)
    gone = [row.entry for row in rows if row.is_gone]
    screen = Screen.of(sys.stdout)
    if arguments.json:
        write_json([_as_json(row) for row in rows])
    elif screen.width is None:
        write_lines(printable(row.entry.directory) for row in rows if not row.is_gone)
    else:
        write_lines(table(_COLUMNS, list(_cells(rows)), screen))
    if gone:
        with suppress(OSError):  # they are told again, then
            directories.drop(gone)
    if distrust := next((row.distrust for row in rows if row.distrust), None):
        raise distrust
    return 0


def _rows(entries: list[KnownDirectory], trust: TrustedDirectories) -> list[_Row]:
    guests = running([Path(entry.directory) for entry in entries])
    rows = []
    for entry in entries:
        directory = Path(entry.directory)
        is_gone, record, written, distrust = False, None, 0.0, None
        try:
            with suppress(OSError, MachineError), opened_directory(directory, trust) as folder:
                record = None if folder is None else Record.read_from(folder, directory)
                is_gone = record is None
                written = os.stat("record.json", dir_fd=folder).st_mtime if record else 0.0
        except NotTrusted as error:
            distrust = error
        rows.append(_Row(entry, is_gone, record, written, tuple(guests[directory]), distrust))
    return rows


def _cells(rows: list[_Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if row.record is None:
            yield row.entry.directory, row.entry.reference, "", "", "", row.state
            continue
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.time))
        record = row.record
        yield row.entry.directory, record.reference, record.platform, size_text(row.size), when, row.state


def _as_json(row: _Row) -> dict[str, object]:
    """A row as `--json` prints it."""
    record = row.record
    return {
        "directory": row.entry.directory,
        "reference": record.reference if record else row.entry.reference,
        "platform": record.platform if record else None,
        "download_size": row.size if record else None,
        "provisioned": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.time)) if record else None,
        "is_gone": row.is_gone,
        "is_trusted": not row.distrust,
        "processes": list(row.processes),
    }
