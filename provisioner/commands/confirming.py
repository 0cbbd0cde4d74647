"""Questions before something is done that can't be undone: asked on a terminal, answered by --yes in scripts."""

from __future__ import annotations

import argparse
import sys

from provisioner.errors import TargetExists
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Screen
from provisioner.terminal.wrapping import fill


def add_yes_argument(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the option that answers all questions with yes."""
    parser.add_argument("--yes", "-y", action="store_true", help=meaning)


def confirm(arguments: argparse.Namespace, fact: str, question: str) -> None:
    """Return if the user agrees, by --yes or on the terminal.

    Raises TargetExists with the `fact` where the answer is no, or nobody can be asked.
    """
    if arguments.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise TargetExists(fact, f"nobody can be asked without a terminal: {question} --yes says so")
    width = Screen.of(sys.stderr).width
    sys.stderr.write(f"{fill(printable(fact), width)}\n{printable(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TargetExists("nothing was done")
