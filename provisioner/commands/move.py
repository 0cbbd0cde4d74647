"""`provision move DIR NEW`: another place for a container, on another file system, too."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from provisioner.commands.container_names import find_container_or_link
from provisioner.commands.copy import add_place_arguments, add_to_list, new_directory, repeated_words
from provisioner.commands.link import wrappers_of
from provisioner.commands.output import make_console
from provisioner.commands.stamps import drop_stamps
from provisioner.commands.subordinate_ids import run_with_subordinate_ids
from provisioner.commands.trusting import trusted_directories
from provisioner.commands.wrappers import move_wrapper
from provisioner.errors import MachineError
from provisioner.terminal.escaping import printable, shell_word

HELP = "Move a provisioned directory, whole or not at all"
EXAMPLE = "provision move ./container /mnt/large/container"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `move`."""
    parser.add_argument(
        "directory", metavar="NAME|DIR", help="a provisioned directory, or its name; nothing may run from it"
    )
    parser.add_argument("new", metavar="NEW", help="its new path, where nothing may be")
    add_place_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Move a directory. Raises ProvisionError; then it is where it was."""
    from provisioner.container.mounted import check_not_mounted
    from provisioner.container.moving import move_directory
    from provisioner.container.opened import opened_container
    from provisioner.container.removing import find_file_owners
    from provisioner.container.running import check_not_running
    from provisioner.container.stamps import find_stamps

    console, trust = make_console(arguments), trusted_directories(arguments)
    source = find_container_or_link(arguments.directory, trust)
    target = new_directory(arguments.new, source, trust)
    stamps = find_stamps(source, trust)
    with opened_container(source, trust) as container:
        check_not_running(source)
        check_not_mounted(container.top, source, "move")
        is_far = os.fstat(container.top).st_dev != _existing_parent(target).stat().st_dev
        if is_far and (owners := find_file_owners(container.top, source)):
            return run_with_subordinate_ids(arguments.directory, owners, repeated_words("move", arguments))
        move_directory(container.top, source, target, console, trust, sync=not arguments.no_sync)
    add_to_list(target, source, is_moved=True)
    console.step(f"{printable(str(source))} is now {printable(str(target))}")
    drop_stamps(stamps, console)
    for wrapper in wrappers_of(source):
        shown = printable(str(wrapper.path))
        try:
            is_changed = move_wrapper(wrapper, target)
        except MachineError as error:  # the container is at its new place nevertheless
            console.warn(f"{error.message}: it starts the container at the old place")
            continue
        if is_changed:
            console.step(f"{shown} starts it there now")
        else:
            again = f"provision link {shell_word(str(target))} {shell_word(wrapper.path.name)}"
            console.step(f"{shown} was edited, and starts it at the old place: change it, or remove it and {again}")
    return 0


def _existing_parent(path: Path) -> Path:
    """Return the lowest directory above `path` that exists."""
    return next(parent for parent in path.parents if parent.exists())
