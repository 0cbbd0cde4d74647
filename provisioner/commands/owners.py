"""`provision owners DIR`: writes the state of fakeroot again, after DIR was copied or moved to another file system."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from provisioner.errors import MachineError, UsageError, machine_errors
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = "Make fakeroot show the image's owners in a copy of a directory"
EXAMPLE = "provision owners ./copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `owners`."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        help="a provisioned directory or a copy of one: DIR/.provision/fakeroot.state, which identifies files by their "
        "inode numbers, is written again",
    )
    parser.add_argument("--quiet", action="store_true", help="show errors only")


def run(arguments: argparse.Namespace) -> int:
    """Write the state of fakeroot, and show the command that uses it. Raises UsageError, MachineError."""
    from provisioner.container.record import FOLDER, describe_missing
    from provisioner.ownership.record import RECORD, STATE, remake_state

    directory = Path(arguments.directory)
    shown = printable(arguments.directory)
    folder = directory / FOLDER
    if not (folder / "record.json").is_file():
        raise UsageError(describe_missing(directory, shown), "name the directory that holds start.sh and rootfs")
    if not (folder / RECORD).is_file():
        raise MachineError(f"{shown} has no record of owners", "provision it again, with --force")
    with machine_errors(f"write the state for fakeroot in {shown}"):
        count = remake_state(folder, directory / "rootfs")
    console = Console(quiet=arguments.quiet)
    console.step(f"fakeroot shows {count} files of {shown} with the owners and modes of the image")
    # fakeroot takes no path with a space: the command changes to the directory first.
    archive = f"cd {shlex.quote(arguments.directory)} && fakeroot -i {FOLDER}/{STATE} tar -C rootfs -c ."
    console.step(f"  {printable(archive)}")
    return 0
