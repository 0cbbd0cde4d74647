"""`provision owners DIR`: tell fakeroot the image's owners anew, after DIR was copied or moved to another disk."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from provisioner.errors import MachineError, UsageError, machine_errors
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = (
    "Write DIR/.provision/fakeroot.state anew: fakeroot knows files by their inodes, which are others in a copy of DIR"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `owners`."""
    parser.add_argument("directory", metavar="DIR", help="a directory that provision made, or a copy of one")
    parser.add_argument("--quiet", action="store_true", help="show errors only")


def run(arguments: argparse.Namespace) -> int:
    """Write the state, and say how to use it. Raises ProvisionError."""
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
    console.step(f"{count} files of {shown} are shown by fakeroot as the image has them")
    # fakeroot can't take a path with a space.
    archive = f"cd {shlex.quote(arguments.directory)} && fakeroot -i {FOLDER}/{STATE} tar -C rootfs -c ."
    console.step(f"  {printable(archive)}")
    return 0
