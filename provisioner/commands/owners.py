"""`provision owners DIR`: writes the state of fakeroot again, after DIR was copied or moved to another file system."""

from __future__ import annotations

import argparse
import os
import shlex
import stat

from provisioner.commands.container_names import path_of_container
from provisioner.commands.output import make_console
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container_files import RECORD
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, machine_errors
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable

HELP = "Make fakeroot show the image's owners in a copy of a directory"
EXAMPLE = "provision owners ./copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `owners`."""
    parser.add_argument(
        "directory",
        metavar="NAME|DIR",
        help="a provisioned directory, its name, or a copy of one: DIR/.provision/fakeroot.state, which identifies "
        "files by their inode numbers, is written again",
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the state of fakeroot, and show the command that uses it. Raises ProvisionError."""
    from provisioner.container.access import find_directory, open_rootfs, opened_directory
    from provisioner.container.record import no_container
    from provisioner.container_files import FAKEROOT_STATE, FOLDER, OWNERSHIP_RECORD
    from provisioner.filesystem.descriptors import closing_descriptor
    from provisioner.ownership.record import remake_state

    shown = printable(arguments.directory)
    trust = trusted_directories(arguments)
    path = path_of_container(arguments.directory)
    directory = find_directory(path, trust)
    with opened_directory(directory, trust) as folder:
        if folder is None or not _has(folder, RECORD):
            raise no_container(directory, shown)
        if not _has(folder, OWNERSHIP_RECORD):
            raise MachineError(f"{shown} has no record of owners", PROVISION_ELSEWHERE)
        with (
            machine_errors(f"write the state for fakeroot in {shown}"),
            closing_descriptor(open_rootfs(folder)) as rootfs,
        ):
            count = remake_state(folder, rootfs)
    console = make_console(arguments)
    console.step(f"fakeroot shows {counted(count, 'file')} of {shown} with owners and modes of the image")
    # fakeroot takes no path with a space: the command changes to the directory first.
    typed = f"./{path}" if str(path).startswith("-") else str(path)
    archive = f"cd {shlex.quote(typed)} && fakeroot -i {FOLDER}/{FAKEROOT_STATE} tar -C rootfs -c ."
    console.step(f"  {printable(archive)}")
    return 0


def _has(folder: int, name: str) -> bool:
    """Return whether a file with this name is in an open directory."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
