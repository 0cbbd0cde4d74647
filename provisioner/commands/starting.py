"""`provision start`, `shell` and `exec`: what start.sh does, for a container by its name.

They become start.sh: it gets the same terminal and signals, and its exit status is theirs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from provisioner.commands.container_names import add_container_argument, check_order, checked_container
from provisioner.commands.start_options import add_start_arguments
from provisioner.commands.trusting import add_trust_argument
from provisioner.container_files import SCRIPT
from provisioner.errors import MachineError, UsageError, machine_errors
from provisioner.launch.script import is_broken
from provisioner.signals import raise_waiting
from provisioner.terminal.escaping import printable, shell_word


@dataclass(frozen=True)
class Starter:
    """One of these subcommands: what it passes to start.sh before the words behind NAME|DIR."""

    HELP: str
    EXAMPLE: str
    options: tuple[str, ...]
    words: str
    """What may follow NAME|DIR, for the help."""
    needs_words: bool = False
    is_shell: bool = False
    """Whether the words are a shell's."""
    QUIET: str = "show errors only"
    add_options: Callable[[argparse.ArgumentParser], None] = add_start_arguments
    """Adds the options that may precede NAME|DIR."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        self.add_options(parser)
        add_trust_argument(parser)
        add_container_argument(parser)
        parser.add_argument("words", metavar="WORD", nargs=argparse.REMAINDER, help=self.words)

    def run(self, arguments: argparse.Namespace) -> int:
        """Become start.sh. Raises NotFound, UsageError, NotTrusted and MachineError."""
        if self.needs_words and not arguments.words:
            raise UsageError("there is no command", f"as in {self.EXAMPLE}")
        words = arguments.words
        if self.needs_words:
            check_order(["exec", *arguments.start_words], arguments.container, *words)
        if self.is_shell and words and words[0] in ("-c", "-lc"):  # sh's -c, not docker's
            words = ["--", *words]
        become(
            os.path.join(checked_container(arguments.container, arguments), SCRIPT),
            (*self.options, *arguments.start_words, *words),
        )


def become(script: str, words: Sequence[str]) -> NoReturn:
    """Run a start.sh in the place of this process. Raises MachineError where it can't be run."""
    check_script(Path(script))
    sys.stdout.flush()
    sys.stderr.flush()
    raise_waiting()
    with machine_errors(f"run {printable(script)}"):
        os.execv(script, [script, *words])


def check_script(script: Path) -> None:
    """Raise MachineError where a start.sh is damaged: some shells run one that was cut short, and do nothing."""
    shown = printable(str(script))
    hint = f"write it anew: provision repair {shell_word(str(script.parent))}"
    try:
        damage = "is damaged" if is_broken(script.read_bytes()) else ""
    except FileNotFoundError:
        damage = "is missing"
    except OSError as error:
        damage = f"can't be read: {error.strerror}"
    if damage or not os.access(script, os.X_OK):
        raise MachineError(f"{shown} {damage or 'is not executable'}", hint)


def _add_start_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `start`: docker's `-a` has no value there."""
    add_start_arguments(parser, but=("--attach", "-a"))
    parser.add_argument(*("-a", "--attach"), action="store_true", help="as in docker: output is always shown")


START = Starter(
    "Start a container: its command, or another one",
    "provision start web",
    (),
    "options of start.sh, and the command: as DIR/start.sh takes them",
    add_options=_add_start_options,
)
SHELL = Starter(
    "Open a login shell in a container", "provision shell web", ("--shell",), "arguments of the shell", is_shell=True
)
EXEC = Starter(
    "Run a command in a container that is running",
    "provision exec web ps",
    ("--exec",),
    "the command, after options of start.sh",
    needs_words=True,
)
