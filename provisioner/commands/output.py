"""Options that several subcommands share, and writing data to standard output."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from provisioner.errors import MachineError, machine_errors
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import Screen

_REQUEST_LOG = "provisioner.commands.request_log"
NAMES_ALONE = "names alone, one a line, as into a pipe"
"""What `--quiet` means for subcommands that list names."""

JSON_FORMAT = 1
"""Grows when a field of docs/json.md is removed or changes its meaning, not when one is added."""


def add_output_arguments(parser: argparse.ArgumentParser, things: str) -> None:
    """Add the options of a subcommand that lists `things`."""
    parser.add_argument(
        "--limit", metavar="N", type=number(1, 1_000_000), default=25, help=f"most {things} to list; default: 25"
    )
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")


def make_console(arguments: argparse.Namespace) -> Console:
    """Return the console for `--quiet` and `--verbose`; with the latter it shows each request too."""
    console = Console(quiet=arguments.quiet, verbose=arguments.verbose, colour=arguments.color)
    if arguments.verbose or _REQUEST_LOG in sys.modules:
        from provisioner.commands.request_log import show_requests

        show_requests(console if arguments.verbose else None)
    return console


def screen_of(arguments: argparse.Namespace) -> Screen:
    """Return the screen of standard output, with colours as `--color` says."""
    return Screen.of(sys.stdout, arguments.color)


def add_insecure_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows insecure registries."""
    parser.add_argument(
        "--insecure", action="store_true", help="allow plain HTTP and certificates that can't be verified"
    )


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output, with characters that its encoding lacks escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with output_errors():
        for line in lines:
            print(line)
        sys.stdout.flush()


@contextmanager
def output_errors() -> Iterator[None]:
    """Turn an OSError of standard output (a full disk) into a MachineError. BrokenPipeError passes."""
    try:
        with machine_errors("write to standard output"):
            yield
    except MachineError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # flushing the rest of the buffer at exit would fail again
        raise


def write_json(value: Mapping[str, object]) -> None:
    """Write an object as JSON in ASCII, so that no text in it can control a terminal.

    Its first field is `format`, the version of what docs/json.md says.
    """
    write_lines([json.dumps({"format": JSON_FORMAT, **value}, indent=2)])


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:100]!r} is not a number from {least} to {most}")
        return int(text)

    return parse
