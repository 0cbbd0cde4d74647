"""`provision remove DIR…`: removes provisioned directories, and nothing else."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioner.commands.confirming import add_yes_argument, confirm
from provisioner.commands.container_names import find_container_or_link
from provisioner.commands.link import wrappers_of
from provisioner.commands.output import make_console
from provisioner.commands.stamps import drop_stamps
from provisioner.commands.subordinate_ids import run_with_subordinate_ids
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.commands.wrappers import remove_wrapper
from provisioner.errors import MachineError
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = "Remove provisioned directories, and stop what runs from them"
EXAMPLE = "provision remove ./container"

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `remove`."""
    parser.add_argument(
        "directories",
        metavar="NAME|DIR",
        nargs="+",
        help="a provisioned directory, or its name where nothing here is called so",
    )
    add_yes_argument(parser, "stop what runs from DIR, and remove files in DIR that provision hasn't made, unasked")
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the directories one after the other, and stop at the first that can't be. Raises ProvisionError."""
    console, trust = make_console(arguments), trusted_directories(arguments)
    for name in arguments.directories:
        if status := _remove(name, arguments, trust, console):
            return status
    return 0


def _remove(name: str, arguments: argparse.Namespace, trust: TrustedDirectories, console: Console) -> int:
    """Remove one directory. Returns the exit status, and raises ProvisionError."""
    from provisioner.container.mounted import check_not_mounted
    from provisioner.container.opened import opened_container
    from provisioner.container.removing import (
        Removal,
        check_in_place,
        find_directory_owners,
        was_removed_partly,
    )
    from provisioner.container.stamps import find_stamps
    from provisioner.container_files import OWNERSHIP_RECORD, RECORD

    target = find_container_or_link(name, trust)
    stamps = find_stamps(target, trust)
    if was_removed_partly(target):
        with Removal(target, trust, action="remove"):
            pass  # this removes what is left, or puts the directory back if it was being replaced
        if not os.path.lexists(target):
            console.step(f"{printable(str(target))} was removed already, but for some files: they are removed now")
            _remove_references(target, stamps, console)
            return 0
    with opened_container(target, trust, needs=(RECORD, OWNERSHIP_RECORD)) as container:
        top = container.top
        check_not_mounted(top, target, "remove", only_here=True)  # containers that run have mounts of their own
        owners = find_directory_owners(top, target)
        _ask(top, target, arguments, trust)
        if owners:
            options = ["--yes", *(["--trust-dir"] if arguments.trust_dir else [])]
            options += ["--quiet"] if arguments.quiet else []
            return run_with_subordinate_ids(name, owners, ["remove", *options, "--", str(target)])
        with Removal(target, trust, action="remove") as removal:
            check_not_mounted(top, target, "remove")
            check_in_place(top, target)
            removal.move_aside()
    console.step(f"removed {printable(str(target))}")
    _remove_references(target, stamps, console)
    return 0


def _remove_references(target: Path, stamps: Sequence[Path], console: Console) -> None:
    """Remove what belongs to a directory that is gone: its entry in the list, stamps, and programs that started it."""
    from provisioner.container.directories import Directories, state_directory

    with suppress(OSError):  # only `provision list` needs it
        directories = Directories(state_directory())
        directories.drop([entry for entry in directories.entries() if entry.directory == str(target)])
    drop_stamps(stamps, console)
    for wrapper in wrappers_of(target):
        try:
            remove_wrapper(wrapper)
        except MachineError as error:  # the container is gone nevertheless
            console.warn(f"{error.message}: it started the container")
            continue
        console.step(f"removed {printable(str(wrapper.path))}, which started it")


def _ask(opened: int, target: Path, arguments: argparse.Namespace, trust: TrustedDirectories) -> None:
    """Ask about files that provision hasn't made, and what runs, and stop that. Raises TargetExists, MachineError."""
    from provisioner.container.removing import other_names_in
    from provisioner.container.running import describe_processes, running_in, stop_running

    shown = printable(str(target))
    if others := other_names_in(opened):
        names = ", ".join(map(printable, others[:_SHOWN])) + (" and more" if len(others) > _SHOWN else "")
        confirm(arguments, f"provision hasn't made these files in {shown}: {names}", "Remove them too?")
    if pids := running_in(target):
        confirm(arguments, f"this runs from {shown}: {describe_processes(pids)}", "Stop it?")
        stop_running(target, is_trusted=trust.covers(target))
