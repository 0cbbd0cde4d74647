"""`provision doctor [DIR]`: what this machine can do, and the command that fixes what it can't."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.output import write_json, write_lines
from provisioner.errors import MachineError, machine_errors
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Screen, wrapped

if TYPE_CHECKING:
    from provisioner.doctor.diagnosis import Diagnosis

HELP = "Check what this machine can do, and how to fix what it can't"
EXAMPLE = "provision doctor ./container"

_INDENT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", help="where a container is or will be; default: the current directory"
    )
    parser.add_argument("--offline", action="store_true", help="make no connection")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the checks. Return the status of MachineError where `provision IMAGE DIR` can't work here, else 0."""
    from provisioner.doctor.diagnosis import diagnose

    with machine_errors("find the directory"):
        directory = Path(os.path.realpath(arguments.directory or _default_directory()))
    diagnosis = diagnose(directory, offline=arguments.offline)
    if arguments.json:
        write_json(diagnosis.to_json())
    else:
        write_lines(_lines(diagnosis, Screen.of(sys.stdout)))
    return MachineError.status if diagnosis.problems else 0


def _default_directory() -> str:
    """Return the current directory, or one for temporary files where it can't be written."""
    return "." if os.access(".", os.W_OK) else tempfile.gettempdir()


def _lines(diagnosis: Diagnosis, screen: Screen) -> Iterator[str]:
    """Return a line for each check, wrapped to fit the terminal, and then the result."""
    for check in diagnosis.checks:
        mark, fix = check.state.ljust(_INDENT), f"; fix: {check.fix}" if check.fix else ""
        first, *others = wrapped(f"{check.name}: {check.detail}{fix}", (screen.width or sys.maxsize) - _INDENT)
        yield (mark if check.state == "ok" else screen.bold(mark)) + first
        yield from (" " * _INDENT + line for line in others)
    where = printable(str(diagnosis.directory))
    names = ", ".join(check.name for check in diagnosis.problems)
    result = f"provision can't work in {where}: {names}" if names else f"provision works in {where}"
    yield from wrapped(result, screen.width or sys.maxsize)
