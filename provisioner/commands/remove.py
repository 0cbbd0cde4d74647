"""`provision remove DIR…`: removes provisioned directories, and nothing else."""

from __future__ import annotations

import argparse
import os
import shlex
from contextlib import suppress
from pathlib import Path

from provisioner.commands.confirming import add_yes_argument, confirm
from provisioner.commands.subordinate_ids import run_with_subordinate_ids
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.errors import MachineError, UsageError
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = "Remove provisioned directories, and stop what runs from them"
EXAMPLE = "provision remove ./container"

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `remove`."""
    parser.add_argument("directories", metavar="DIR", nargs="+", help="a directory that provision has made")
    add_yes_argument(parser, "stop what runs from DIR, and remove files in DIR that provision hasn't made, unasked")
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the directories one after the other, and stop at the first that can't be. Raises ProvisionError."""
    console, trust = Console(quiet=arguments.quiet), trusted_directories(arguments)
    for name in arguments.directories:
        if status := _remove(name, arguments, trust, console):
            return status
    return 0


def _remove(name: str, arguments: argparse.Namespace, trust: TrustedDirectories, console: Console) -> int:
    """Remove one directory. Returns the exit status, and raises ProvisionError."""
    from provisioner.container.directories import Directories, state_directory
    from provisioner.container.removing import Removal, find_directory_owners, opened_own_directory, was_removed_partly
    from provisioner.container.usage import check_not_mounted

    target = path_of(name, trust)
    if was_removed_partly(target):
        with Removal(target, trust):
            pass  # this removes what is left, or puts the directory back if it was being replaced
        if not os.path.lexists(target):
            console.step(f"{printable(name)} was removed already, but for some files: they are removed now")
            return 0
    with opened_own_directory(target, trust) as opened:
        check_not_mounted(opened, target, "remove", only_here=True)  # containers that run have mounts of their own
        owners = find_directory_owners(opened, target)
        _ask(opened, target, arguments, trust)
        if owners:
            options = ["--yes", *(["--trust-dir"] if arguments.trust_dir else [])]
            options += ["--quiet"] if arguments.quiet else []
            return run_with_subordinate_ids(name, owners, ["remove", *options, "--", str(target)])
        with Removal(target, trust) as removal:
            check_not_mounted(opened, target, "remove")
            if not os.path.samestat(os.fstat(opened), os.stat(target, follow_symlinks=False)):
                raise MachineError(f"another process has just replaced {printable(str(target))}", "try again")
            removal.move_aside()
    with suppress(OSError):  # only `provision list` needs it
        directories = Directories(state_directory())
        directories.drop([entry for entry in directories.entries() if entry.directory == str(target)])
    console.step(f"removed {printable(name)}")
    return 0


def path_of(name: str, trust: TrustedDirectories) -> Path:
    """Return the absolute path of a directory that the user has named, whose last name isn't followed as a symlink.

    Raises UsageError for the root directory, NotTrusted and MachineError.
    """
    from provisioner.container.access import trust_errors
    from provisioner.filesystem.resolution import resolved

    with trust_errors(f"look at {printable(name)}"), resolved(name, trust, parents_only=True) as found:
        path = found.path
    if not name or path == path.parent:
        raise UsageError(f"DIR can't be {shlex.quote(printable(name))}", "name a directory that provision has made")
    return path


def _ask(opened: int, target: Path, arguments: argparse.Namespace, trust: TrustedDirectories) -> None:
    """Ask about files that provision hasn't made, and what runs, and stop that. Raises TargetExists, MachineError."""
    from provisioner.container.removing import other_names_in
    from provisioner.container.usage import describe_processes, running_in, stop

    shown = printable(str(target))
    if others := other_names_in(opened):
        names = ", ".join(map(printable, others[:_SHOWN])) + (" and more" if len(others) > _SHOWN else "")
        confirm(arguments, f"provision hasn't made these files in {shown}: {names}", "Remove them too?")
    if pids := running_in(target):
        confirm(arguments, f"this runs from {shown}: {describe_processes(pids)}", "Stop it?")
        stop(target, is_trusted=trust.covers(target))
