"""`provision copy DIR NEW`: a second container with all that is in the first one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioner.commands.container_names import find_container, is_known
from provisioner.commands.output import make_console
from provisioner.commands.subordinate_ids import run_with_subordinate_ids
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.errors import UsageError
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable

HELP = "Copy a provisioned directory, with all changes in it"
EXAMPLE = "provision copy ./container ./second"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `copy`."""
    parser.add_argument("directory", metavar="NAME|DIR", help="a provisioned directory, or its name")
    parser.add_argument("new", metavar="NEW", help="the directory to create")
    add_place_arguments(parser)


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of subcommands that create a directory from another one."""
    parser.add_argument(
        "--no-sync", action="store_true", help="don't wait for the disk: faster, but a power cut may take files of NEW"
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy a directory. Raises ProvisionError; NEW is absent then, or as it was."""
    from provisioner.container.copying import copy_directory
    from provisioner.container.opened import opened_container
    from provisioner.container.removing import check_in_place, find_file_owners
    from provisioner.container.running import describe_running
    from provisioner.container.staging import Staging
    from provisioner.filesystem.copying import describe_losses

    console, trust = make_console(arguments), trusted_directories(arguments)
    _check_no_files([arguments.directory, arguments.new])
    source = find_container(arguments.directory, trust)
    target = new_directory(arguments.new, source, trust)
    with opened_container(source, trust) as container:
        if owners := find_file_owners(container.top, source):
            return run_with_subordinate_ids(arguments.directory, owners, repeated_words("copy", arguments))
        for line in describe_running(source, printable(arguments.directory), "copy"):
            console.step(line)
        with Staging(target, trust) as staging:
            report = copy_directory(container.top, source, staging.new, target, console)
            check_in_place(container.top, source)
            staging.commit(console, sync=not arguments.no_sync, replace=False)
    for line in describe_losses(report):
        console.step(line)
    shared = f", {report.reflinks} of them by reflink, without taking space" if report.reflinks else ""
    console.step(f"copied {report}{shared}")
    add_to_list(target, source)
    console.step(f"{printable(arguments.new)} is ready")
    return 0


def _check_no_files(words: Sequence[str]) -> None:
    """Raise UsageError where a word is docker's name of a file in a container."""
    from provisioner.commands.foreign_words import IN_CONTAINER, what_to_type

    for word in words:
        found = IN_CONTAINER.fullmatch(word)
        if found and not os.path.lexists(word) and is_known(found[1]):
            raise UsageError("provision copy makes another container", what_to_type(["cp", *words], ()))


def new_directory(name: str, source: Path, trust: TrustedDirectories) -> Path:
    """Return the absolute path of a directory to create from `source`, where nothing may be but an empty directory.

    Raises UsageError where the name is empty or one of the two would be in the other, TargetExists, NotTrusted and
    MachineError.
    """
    from provisioner.container.access import find_directory
    from provisioner.container.place import check_free

    if not name:
        raise UsageError("NEW is empty", "name a directory that isn't there yet")
    target = find_directory(name, trust)
    shown = printable(name)
    if target == source:
        raise UsageError(f"{shown} is the container itself", "name a directory that isn't there yet")
    if target.is_relative_to(source):
        raise UsageError(f"{shown} is inside of {printable(str(source))}", "name a directory outside of it")
    if source.is_relative_to(target):
        raise UsageError(f"{printable(str(source))} is inside of {shown}", "name a directory that isn't there yet")
    check_free(target, name)
    return target


def repeated_words(command: str, arguments: argparse.Namespace) -> list[str]:
    """Return the words of a command line that does the same."""
    options = ("no_sync", "trust_dir", "quiet")
    words = [f"--{name.replace('_', '-')}" for name in options if getattr(arguments, name)]
    return [command, *words, "--", arguments.directory, arguments.new]


def add_to_list(target: Path, source: Path, *, is_moved: bool = False, content: str = "") -> None:
    """Add `target` to the list of directories, with what it says of `source`, which it forgets if that was moved.

    `content` is the digest of an ownership record that was written anew.
    """
    from provisioner.container.directories import Directories, KnownDirectory, state_directory
    from provisioner.container.record import Record
    from provisioner.errors import ProvisionError

    with suppress(OSError, ProvisionError):  # only `provision list` needs it
        directories = Directories(state_directory())
        former = [entry for entry in directories.entries() if entry.directory == str(source)]
        if is_moved:
            directories.drop(former)
        if record := Record.read(target, TrustedDirectories(("*",))):
            content = content or (former[0].content if former else "")
            directories.add(KnownDirectory(str(target), record.reference, record.id, content))
