"""`provision diff DIR`: what was added, changed and deleted since the image was unpacked."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provisioner.commands.container_names import find_container
from provisioner.commands.output import screen_of, write_json, write_lines
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.opened import opened_container
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Column, Style, table

if TYPE_CHECKING:
    from provisioner.comparison.changes import Change

HELP = "Show what was changed since the image was unpacked"
EXAMPLE = "provision diff ./container"

_WORDS = {"A": "added", "C": "changed", "D": "deleted"}
_STYLES = {"A": Style.GREEN, "C": Style.YELLOW, "D": Style.RED}
_COLUMNS = (
    Column("", style=lambda text: _STYLES[text]),
    Column("PATH", flexible=True),
    Column("SIZE", right=True),
    Column("WHAT", optional=True),
)
_STAT_COLUMNS = (
    Column("DIRECTORY", flexible=True),
    *(Column(word.upper(), f"{{}} {word}", right=True) for word in _WORDS.values()),
    Column("BYTES", right=True),
)
_STAT_NAMES = 2
"""How many names of a path `--stat` groups by: /usr/lib, but not what is in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    parser.add_argument(
        "directory", metavar="NAME|DIR", help="a provisioned directory, or its name; what runs in it may go on"
    )
    parser.add_argument("--stat", action="store_true", help="numbers and bytes by directory")
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the changes, in a pipe as `docker diff` does. Raises ProvisionError."""
    with _changes(arguments) as changes:
        screen = screen_of(arguments)
        if arguments.stat:
            rows = _stat(changes)
            if arguments.json:
                write_json({"directories": [_stat_as_json(row) for row in rows]})
            elif screen.width is None:
                write_lines("\t".join(map(str, row)) for row in rows)
            else:
                cells = ((path, str(a), str(c), str(d), _signed_size(size)) for path, a, c, d, size in rows)
                write_lines(table(_STAT_COLUMNS, list(cells), screen))
        elif arguments.json:
            write_json({"changes": list(map(_as_json, changes))})
        elif screen.width is None:
            write_lines(f"{change.letter} {_shown(change)}" for change in changes)
        else:
            write_lines(table(_COLUMNS, list(map(_cells, changes)), screen))
    return 0


@contextmanager
def _changes(arguments: argparse.Namespace) -> Iterator[Iterable[Change]]:
    """Return a context that gives the changes in DIR. Raises NotFound, TargetExists, NotTrusted and MachineError."""
    from provisioner.comparison.changes import find_changes

    trust = trusted_directories(arguments)
    directory = find_container(arguments.directory, trust)
    with opened_container(directory, trust, printable(arguments.directory)) as container:
        container.read_record()  # a version that can't read it must not guess what the other files mean
        yield find_changes(container.folder, container.shown)


def _shown(change: Change) -> str:
    return printable(b"/" + change.path)


def _cells(change: Change) -> tuple[str, ...]:
    size = size_text(change.size or change.size_before) if change.size or change.size_before else ""
    what = ", ".join(aspect.value for aspect in change.aspects)
    return change.letter, _shown(change), size, what


def _as_json(change: Change) -> dict[str, object]:
    """Return a change as `--json` prints it."""
    return {
        "path": "/" + os.fsdecode(change.path),
        "change": _WORDS[change.letter],
        "type": change.kind.value if change.kind else "socket",
        "what": [aspect.value for aspect in change.aspects],
        "size": change.size if change.letter != "D" else None,
        "size_before": change.size_before if change.letter != "A" else None,
    }


_Row = tuple[str, int, int, int, int]
"""A directory, how many paths were added, changed and deleted in it, and by how many bytes it has grown."""


def _stat(changes: Iterable[Change]) -> list[_Row]:
    """Count the changes by directory. Directories in which only something has changed don't count."""
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[str] = Counter()
    for change in changes:
        if change.letter == "C" and not change.aspects:
            continue
        names = os.fsdecode(change.path).split("/")[:-1][:_STAT_NAMES]
        directory = printable("/" + "/".join(names))
        counts[directory, change.letter] += 1
        sizes[directory] += change.size - change.size_before
    return [
        (directory, counts[directory, "A"], counts[directory, "C"], counts[directory, "D"], sizes[directory])
        for directory in sorted(sizes)
    ]


def _stat_as_json(row: _Row) -> dict[str, object]:
    return dict(zip(("directory", *_WORDS.values(), "bytes"), row, strict=True))


def _signed_size(size: int) -> str:
    sign = "-" if size < 0 else "+"
    return f"{sign}{size_text(abs(size))}" if size else "0"
