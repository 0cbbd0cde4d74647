"""`provision doctor [DIR]`: what this machine can do, and the command that fixes what it can't."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.output import screen_of, write_json, write_lines
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.access import find_directory, opened_directory, trust_errors
from provisioner.container.recovery import check_staging
from provisioner.errors import MachineError, NotTrusted, TargetExists, machine_errors
from provisioner.filesystem.resolution import resolved
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Screen, Style, cell_text, wrapped

if TYPE_CHECKING:
    from provisioner.doctor.check import Check
    from provisioner.doctor.diagnosis import Diagnosis

HELP = "Check what this machine can do, and how to fix what it can't"
EXAMPLE = "provision doctor ./container"
QUIET = "show only what keeps provision from working here"

_INDENT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", help="where a container is or will be; default: the current directory"
    )
    add_trust_argument(parser)
    parser.add_argument("--offline", action="store_true", help="make no connection")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the checks. Return the status of MachineError where `provision IMAGE DIR` can't work here, else 0.

    Raises NotTrusted where others could have changed what is in the directory, and TargetExists where its staging
    directory is somebody else's.
    """
    from provisioner.doctor.diagnosis import diagnose

    trust = trusted_directories(arguments)
    directory = _find_directory(arguments.directory or _default_directory(), trust)
    diagnosis = diagnose(directory, offline=arguments.offline, trust=trust)
    if arguments.json:
        write_json(diagnosis.to_json())
    else:
        write_lines(_lines(diagnosis, screen_of(arguments), problems_only=arguments.quiet))
    return MachineError.status if diagnosis.problems else 0


def _find_directory(path: str, trust: TrustedDirectories) -> Path:
    """Return the directory to check. The checks report whatever is wrong with it, but for what others could change.

    Raises NotTrusted, and TargetExists for the staging directory of somebody else.
    """
    try:
        directory = find_directory(path, trust)
        with opened_directory(directory, trust):
            pass
    except NotTrusted:
        raise
    except (MachineError, TargetExists):
        with machine_errors("find the directory"):
            return Path(os.path.realpath(path))
    action = f"look at {printable(path)}"
    # The checks report a parent that is closed to this user.
    with suppress(MachineError), trust_errors(action), resolved(directory, trust, parents_only=True) as found:
        if len(found.missing) == 1:
            check_staging(found.directory, directory)
    return directory


def _default_directory() -> str:
    """Return the current directory, or one for temporary files where it can't be written."""
    return "." if os.access(".", os.W_OK) else tempfile.gettempdir()


def _lines(diagnosis: Diagnosis, screen: Screen, *, problems_only: bool) -> Iterator[str]:
    """Return a line for each check, wrapped to fit the terminal, what matters first, and then the result."""
    from provisioner.doctor.importance import by_importance

    for check in diagnosis.problems if problems_only else by_importance(diagnosis.checks):
        mark, style = _mark(check)
        fix = f"; fix: {check.fix}" if check.fix else ""
        first, *others = wrapped(
            cell_text(f"{check.name}: {check.detail}{fix}"), (screen.width or sys.maxsize) - _INDENT
        )
        yield screen.styled(mark, style) + " " * (_INDENT - len(mark)) + first
        yield from (" " * _INDENT + line for line in others)
    where = printable(str(diagnosis.directory))
    names = ", ".join(check.name for check in diagnosis.problems)
    result = f"provision can't work in {where}: {names}" if names else f"provision works in {where}"
    for line in wrapped(result, screen.width or sys.maxsize):
        yield screen.styled(line, Style.RED if names else Style.GREEN)


def _mark(check: Check) -> tuple[str, Style]:
    """Return the mark of a check and its style: what failed and is harmless has a dash."""
    if check.state == "ok":
        return check.state, Style.GREEN
    if check.is_harmless:
        return "-" if check.state == "no" else check.state, Style.DIM
    return check.state, Style.RED if check.essential else Style.YELLOW
