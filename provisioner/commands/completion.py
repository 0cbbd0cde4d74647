"""`provision completion SHELL`: the completions of a shell, for its start-up file."""

from __future__ import annotations

import argparse

from provisioner.commands.output import write_lines
from provisioner.resources import read_resource

HELP = "Print the completions for bash, zsh or fish"
EXAMPLE = "provision completion bash >~/.local/share/bash-completion/completions/provision"

FILES = {"bash": "provision", "zsh": "_provision", "fish": "provision.fish"}
"""The files in scripts/share/, by shell. Their names are those that the shells look for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `completion`."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(FILES), help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print the file."""
    write_lines([read_resource("scripts/share", FILES[arguments.shell]).decode().rstrip("\n")])
    return 0
