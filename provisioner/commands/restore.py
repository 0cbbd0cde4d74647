"""`provision restore FILE DIR`: a container from a backup, on any machine, for any user."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.copy import add_to_list
from provisioner.commands.output import make_console
from provisioner.commands.stamps import report_change
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.errors import MalformedImage, UsageError, error_context, machine_errors
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.exports.restore import Restored

HELP = "Make a container from a backup"
EXAMPLE = "provision restore container.tar.zst ./container"
_CHUNK = 1 << 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `restore`."""
    parser.add_argument("file", metavar="FILE", help="what provision backup has written, or - for standard input")
    parser.add_argument("directory", metavar="DIR", help="the directory to create")
    parser.add_argument(
        "--max-size", metavar="SIZE", help="the most that the backup may take, as 20G; default: 9/10 of the free space"
    )
    parser.add_argument(
        "--hardlinks",
        choices=("auto", "copy", "symlink"),
        default="auto",
        help="what to create where hard links are not possible; default: auto, a reflink or else a copy",
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="don't wait for the disk: faster, but a power cut may take files of DIR"
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore a directory. Raises ProvisionError; DIR is absent then."""
    from provisioner.commands.plan_options import parse_max_size, script_shell
    from provisioner.container.access import find_directory
    from provisioner.container.place import check_free, limits_of
    from provisioner.container.staging import Staging
    from provisioner.exports.restore import restore_backup
    from provisioner.filesystem.descriptors import closing_descriptor
    from provisioner.filesystem.space import free_space
    from provisioner.layers.budget import Budget
    from provisioner.ownership.policy import Ownership

    console, trust = make_console(arguments), trusted_directories(arguments)
    if not arguments.directory:
        raise UsageError("DIR is empty", "name a directory that isn't there yet")
    directory = find_directory(arguments.directory, trust)
    shown = printable(arguments.directory)
    if directory == directory.parent:
        raise UsageError("DIR can't be the root directory", "name a directory below it")
    check_free(directory, arguments.directory)
    max_size = None if arguments.max_size is None else parse_max_size(arguments.max_size)
    with _opened(arguments.file) as chunks, Staging(directory, trust) as staging:
        with machine_errors("prepare the directory"):
            scratch = staging.open_scratch("backup")
            ownership = Ownership.in_directory(staging.new)
            limits = limits_of(staging.new, ownership)
            budget = Budget(free_space(staging.new).default_limit if max_size is None else max_size)
        for line in limits:
            console.step(line)
        name = "standard input" if arguments.file == "-" else printable(arguments.file)
        shows = console.activity("restoring", lambda: str(budget.unpacked()))
        with closing_descriptor(scratch), error_context(name), shows:
            restored = restore_backup(
                chunks, staging.new, scratch, ownership, budget, arguments.hardlinks, script_shell()
            )
        staging.commit(console, sync=not arguments.no_sync, replace=False)
    report_change(directory, trust)
    add_to_list(directory, directory)
    for line in _describe(restored):
        console.step(line)
    console.step(f"{shown} is ready: {printable(restored.record.reference)}")
    return 0


@contextmanager
def _opened(name: str) -> Iterator[Iterator[bytes]]:
    """Open a file, or standard input, for the context, and give its bytes.

    Raises NotFound, UsageError and MachineError.
    """
    from provisioner.commands.input_files import open_input

    shown = printable(name)
    if name == "-":
        if sys.stdin.isatty():
            raise UsageError("a backup doesn't come from a terminal", "name a file, or pipe one")
        yield _chunks(sys.stdin.fileno(), "standard input")
        return
    with ExitStack() as stack:
        file = open_input(Path(name), stack, "name a file that provision backup has written")
        yield _chunks(file.fileno(), shown)


def _chunks(file: int, shown: str) -> Iterator[bytes]:
    is_empty = True
    with machine_errors(f"read {shown}"):
        while chunk := os.read(file, _CHUNK):
            is_empty = False
            yield chunk
    if is_empty:
        raise MalformedImage("it is empty", "name a file that provision backup has written")


def _describe(restored: Restored) -> list[str]:
    """Return a line for each thing that isn't as it was, or that the user should know."""
    from provisioner.layers.messages import clamped_times_text, substitutes_text
    from provisioner.rootfs.access_lists import refused_text

    lines = [text] if (text := substitutes_text(restored.substitutes)) else []
    if restored.lost_owners:
        belong = counted(restored.lost_owners, "file belongs", "files belong")
        lines.append(
            f"{belong} to others in the backup, and to you here: "
            "only root can give files away; .provision/ has the owners of the image's"
        )
    if restored.lost_access_lists:
        lines.append(refused_text(restored.lost_access_lists))
    if restored.lost_devices:
        devices = counted(restored.lost_devices, "device is an empty file", "devices are empty files")
        lines.append(f"{devices}: a backup brings none that the image doesn't have; mknod(1) makes them anew")
    if restored.clamped_times:
        lines.append(clamped_times_text(restored.clamped_times))
    if restored.is_edited:
        lines.append("start.sh was edited: it is written anew, and the old one is .provision/start.sh.old")
    if not restored.has_digest:
        lines.append("the backup has no digest, since another program has packed it: only its structure was verified")
    return lines + restored.settings
