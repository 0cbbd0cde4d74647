"""`provision logs NAME|DIR`: what a container in the background has printed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

from provisioner.commands.container_names import add_container_argument, checked_container
from provisioner.commands.output import output_errors
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.opened import opened_container
from provisioner.container.running import running_in
from provisioner.container.sessions import find_sessions
from provisioner.container_files import FOLDER, LOG, SCRIPT
from provisioner.errors import NotFound, machine_errors
from provisioner.filesystem.descriptors import EXISTING_FILE
from provisioner.terminal.escaping import printable, shell_word

HELP = "Show what a container in the background has printed"
EXAMPLE = "provision logs --follow web"

_INTERVAL = 0.2
"""Seconds between two looks at a log that is followed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `logs`."""
    add_container_argument(parser)
    parser.add_argument(
        "--follow", "-f", action="store_true", help="go on with what is printed from now on, as long as it runs"
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the log to standard output, byte for byte. Raises NotFound where there is none."""
    directory, trust = checked_container(arguments.container, arguments), trusted_directories(arguments)
    with opened_container(directory, trust, needs=()) as container, machine_errors("read the log"):
        try:
            file = os.open(LOG, EXISTING_FILE, dir_fd=container.folder)
        except FileNotFoundError:
            raise _no_log(directory) from None
    with open(file, "rb") as log, output_errors():
        is_running = True
        while True:
            _copy(log)
            if not (arguments.follow and is_running):
                break
            time.sleep(_INTERVAL)
            is_running = bool(find_sessions(directory, ()))  # what it has printed at its end is copied after that
    return 0


def _no_log(directory: Path) -> NotFound:
    """Return the error for a directory without a log: start.sh has put it elsewhere where it can't write to it."""
    start = shell_word(str(directory / SCRIPT))
    if not os.access(directory / FOLDER, os.W_OK) and running_in(directory):
        message = f"{printable(str(directory))} can't be written to, and has no log"
        return NotFound(message, "read the file that start.sh --detach has named when it started")
    return NotFound("nothing was started in the background", f"start it: {start} --detach")


def _copy(log: BinaryIO) -> None:
    shutil.copyfileobj(log, sys.stdout.buffer)
    sys.stdout.flush()
