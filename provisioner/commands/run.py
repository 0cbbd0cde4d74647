"""`provision run SOURCE [COMMAND…]`: a command in an image, of which nothing is left."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

from provisioner.commands import install, remove
from provisioner.commands.first_word import operand_positions
from provisioner.commands.operands import check_operands, is_path
from provisioner.commands.parser import Parser, add_common_options
from provisioner.commands.start_options import TAKES_VALUE, add_start_arguments, check_start_words
from provisioner.commands.trusting import add_trust_argument
from provisioner.container.directories import state_directory
from provisioner.container_files import SCRIPT, looks_provisioned
from provisioner.errors import ProvisionError, UsageError, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.locks import try_lock
from provisioner.terminal.escaping import printable, shell_line, shell_word

HELP = "Run a command in an image once, and leave nothing behind"
EXAMPLE = "provision run alpine cat /etc/os-release"

_PR_SET_PDEATHSIG = 1
"""See PR_SET_PDEATHSIG(2const)."""
_FOLDER = "run"
"""The folder of the containers that are thrown away, in the state directory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.add_argument("--platform", metavar="P", help="linux/arm64, linux/arm/v7, …; default: this machine's")
    add_start_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument("source", metavar="SOURCE", help="an image, as for install")
    parser.add_argument(
        "words", metavar="WORD", nargs=argparse.REMAINDER, help="the command in place of CMD, with its own options"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit status. Raises ProvisionError."""
    check_operands(arguments.source, None)
    _check_not_container(arguments.source)
    check_start_words(arguments.start_words)
    _check_detached(arguments.start_words)
    with _throw_away_place() as place:
        directory = place / "container"
        options = ["--quiet"] * arguments.quiet + ["--verbose"] * arguments.verbose
        platform = ["--platform", arguments.platform] if arguments.platform else []
        words = ["--no-sync", *options, *platform, "--", arguments.source, str(directory)]
        with _suggest_bind(arguments):
            _call(install, words, is_temporary=True)
        try:
            _check_command(arguments, directory)
            end = ["--"] if arguments.words else []
            return _started([str(directory / SCRIPT), *arguments.start_words, *end, *arguments.words])
        finally:
            _call(remove, ["--yes", "--quiet", "--", str(directory)])


@contextmanager
def _suggest_bind(arguments: argparse.Namespace) -> Iterator[None]:
    """Where the block fails for a path behind `-v`, which docker would bind, say how that is written."""
    try:
        yield
    except ProvisionError as error:
        if arguments.verbose and is_path(arguments.source):
            error.hint = f"{error.hint}; -v alone is --verbose: to bind a path, -v SRC:/DST"
        raise


def _check_not_container(source: str) -> None:
    """Raise UsageError where a word is the name of a container here."""
    if "/" not in source and looks_provisioned(source):
        shown = shell_word(source)
        raise UsageError(
            f"{shown} is a container",
            f"type provision start {shown}; an image of that name: provision run {shown}:latest",
        )


def _check_detached(words: Sequence[str]) -> None:
    """Raise UsageError for an option of start.sh that leaves something running, also joined with others, as -itd."""
    if found := next((word for word in words if re.fullmatch("--detach|-[it]*d[it]*", word)), ""):
        raise UsageError(
            f"{found} would leave something running of which the files are removed",
            "make a directory of its own: provision SOURCE DIR, then DIR/start.sh -d",
        )


def _check_command(arguments: argparse.Namespace, directory: Path) -> None:
    """Raise UsageError where the command begins with an option, and the image has no entrypoint that could take it."""
    words = arguments.words
    if not words or not words[0].startswith("-") or {"--entrypoint", "--shell"} & set(arguments.start_words):
        return
    from provisioner.inspection import inspect_directory

    if not inspect_directory(directory).image.config.entrypoint:
        first = next(iter(operand_positions(words, TAKES_VALUE.__contains__)), len(words))
        typed = [*arguments.start_words, *words[:first]]
        _check_detached(typed)
        line = ["provision", "run", *typed, arguments.source, *words[first:]]
        raise UsageError(
            f"{printable(words[0])} is no command; options of provision run come before the image",
            f"type {shell_line(line)}",
        )


@contextmanager
def _throw_away_place() -> Iterator[Path]:
    """Give a new directory, which is locked and removed at the end; remove those that killed runs have left."""
    with machine_errors("make a directory for the container"):
        folder = state_directory() / _FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in sorted(folder.iterdir()):
            _remove_left(left)
        place = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
        place.mkdir(mode=0o700)
        opened_place = os.open(place, DIRECTORY)
    with closing_descriptor(opened_place) as opened:
        try_lock(opened)
        try:
            yield place
        finally:
            with suppress(OSError):
                place.rmdir()


def _remove_left(place: Path) -> None:
    """Remove what a killed run has left, unless that run still goes on."""
    with suppress(OSError, ProvisionError), closing_descriptor(os.open(place, DIRECTORY)) as opened:
        if not try_lock(opened):
            return
        for name in os.listdir(opened):
            if looks_provisioned(place / name) and not name.startswith("."):
                _call(remove, ["--yes", "--quiet", "--", str(place / name)])
        place.rmdir()


def _call(command: ModuleType, words: Sequence[str], **more: bool) -> None:
    """Run another subcommand with these words, and arguments that have no option. Raises ProvisionError."""
    parser = Parser(prog="provision", allow_abbrev=False)
    command.add_arguments(parser)
    add_common_options(parser)
    parser.set_defaults(**more)
    command.run(parser.parse(words))


def _started(command: Sequence[str]) -> int:
    """Run start.sh and return its exit status; signals that this process gets are passed on.

    Of SIGKILL it can't know: the kernel then kills start.sh, and with that all that it has started.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    with machine_errors("run start.sh"), subprocess.Popen(command, preexec_fn=end_with_parent) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            # A terminal sends Ctrl-C to both.
            if number != signal.SIGINT or not os.isatty(0):
                process.send_signal(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, forward) for number in numbers}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 128 - status if status < 0 else status
