"""`provision owners DIR`: writes the state of fakeroot again, after DIR was copied or moved to another file system."""

from __future__ import annotations

import argparse

from provisioner.commands.container_names import path_of_container
from provisioner.commands.output import make_console
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.errors import machine_errors
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable, shell_word

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
    from provisioner.container.access import find_directory, open_rootfs
    from provisioner.container.opened import opened_container
    from provisioner.container_files import FAKEROOT_STATE, FOLDER
    from provisioner.filesystem.descriptors import closing_descriptor
    from provisioner.ownership.record import remake_state

    shown = printable(arguments.directory)
    trust = trusted_directories(arguments)
    path = path_of_container(arguments.directory)
    directory = find_directory(path, trust)
    with opened_container(directory, trust, shown) as container:
        container.check_ownership_record()
        with (
            machine_errors(f"write the state for fakeroot in {shown}"),
            closing_descriptor(open_rootfs(container.folder)) as rootfs,
        ):
            count = remake_state(container.folder, rootfs)
    console = make_console(arguments)
    console.step(f"fakeroot shows {counted(count, 'file')} of {shown} with owners and modes of the image")
    # fakeroot takes no path with a space: the command changes to the directory first.
    typed = f"./{path}" if str(path).startswith("-") else str(path)
    archive = f"cd {shell_word(typed)} && fakeroot -i {FOLDER}/{FAKEROOT_STATE} tar -C rootfs -c ."
    console.step(f"  {archive}")
    return 0
