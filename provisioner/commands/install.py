"""`provision [install] IMAGE DIR`: turns an image into a directory that runs."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.open_source import catalogue_name, open_source
from provisioner.commands.operands import check_operands, default_directory
from provisioner.commands.output import make_console, number, write_lines
from provisioner.commands.plan_options import add_plan_arguments, plan_of, warn_of_missing_binds
from provisioner.commands.source_options import (
    SourceOptions,
    add_registry_arguments,
    add_source_arguments,
    platform_reason,
)
from provisioner.commands.stamps import Stamps, add_stamp_arguments
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.config import Config
from provisioner.container.access import find_directory
from provisioner.container_files import FOLDER, SCRIPT
from provisioner.errors import NetworkError, NotFound, UsageError, machine_errors
from provisioner.image.source_name import RegistryName, SourceName, parse_source
from provisioner.sizes import counted, size_text
from provisioner.terminal.escaping import printable, shell_line, shell_word

if TYPE_CHECKING:
    from provisioner.container.record import Record
    from provisioner.provision.plan import Outcome
    from provisioner.terminal.progress import Console

HELP = "Turn a container image into a directory that runs"
_SOURCE_HELP = (
    "ubuntu, ubuntu:24.04, ghcr.io/owner/image@sha256:…, localhost:5000/image; docker-archive:FILE, oci:DIR, "
    "oci-archive:FILE, dir:DIR, lxc:debian/trixie; ./FILE or ./DIR, known by its content; - is standard input"
)
EXAMPLE = "provision ubuntu ./container && ./container/start.sh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `install`."""
    source = parser.add_argument("source", metavar="SOURCE", help=_SOURCE_HELP)
    source.required = False  # a lock names its own
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", help="the directory to create; default: the name of the image, ./ubuntu"
    )
    add_registry_arguments(parser)
    add_plan_arguments(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace a DIR that provision made; changes in it are lost"
    )
    add_source_arguments(parser)
    parser.add_argument("--jobs", metavar="N", type=number(1, 64), help="downloads at a time; default: 4")
    parser.add_argument("--stop-running", action="store_true", help="with --force: stop what runs from DIR")
    parser.add_argument("--no-wait", action="store_true", help="fail where another run is at work on DIR")
    add_stamp_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the record of what was provisioned")
    parser.set_defaults(is_temporary=False)


def run(arguments: argparse.Namespace) -> int:
    """Provision a directory, and show how to start it, unless it is temporary. Raises ProvisionError."""
    began = time.monotonic()
    config = Config.load()
    trust = trusted_directories(arguments, config)
    _take_source_from_lock(arguments)
    check_operands(arguments.source, arguments.directory)
    name = parse_source(arguments.source)
    is_named = arguments.directory is not None
    arguments.directory = arguments.directory if is_named else default_directory(name)
    directory = find_directory(arguments.directory, trust)
    if directory == directory.parent:
        raise UsageError("DIR can't be the root directory", "name a directory below it")

    # Slow imports: mistakes on the command line are reported before them.
    from provisioner.container.directories import Directories, KnownDirectory, state_directory
    from provisioner.container.existing import existing_record
    from provisioner.container.staging import scratch_before_staging
    from provisioner.image.lockfile import Lock, check_writable
    from provisioner.provision import provision

    plan = plan_of(arguments, config, directory, trust)
    console = make_console(arguments)
    if not is_named:
        other = catalogue_name(SourceOptions.of(arguments, config), plan.platform)
        _check_default_directory(arguments.directory, existing_record(directory, trust), name, other)
        console.step(f"DIR is {printable(arguments.directory)}, by the image's name")
    options = SourceOptions.of(arguments, config)
    if arguments.lock:
        _check_lock_outside(Path(arguments.lock), directory)
        check_writable(Path(arguments.lock), trust)
    warn_of_missing_binds(plan.binds, console)
    stamps = Stamps.of(arguments, directory, trust, lambda: existing_record(directory, trust) is not None)
    with ExitStack() as stack:
        if arguments.is_temporary or not is_named:
            stack.enter_context(_suggest_container(arguments.source))
        if arguments.no_cache:
            options = replace(options, scratch=stack.enter_context(scratch_before_staging(directory, trust)))
        source = stack.enter_context(open_source(name, options, console))
        shown = name.reference.familiar if isinstance(name, RegistryName) else printable(source.reference)
        console.step(f"provision {shown} for {plan.platform}")
        console.detail(f"platform: {plan.platform}, {platform_reason(arguments, config)}")
        outcome = provision(plan, source, console)
    stamps.update(trust, is_changed=outcome.is_changed, is_new=outcome.is_new)
    with suppress(OSError):  # only `provision list` needs it
        known = KnownDirectory(str(directory), outcome.record.reference, outcome.record.id, outcome.content)
        Directories(state_directory()).add(known)
    if arguments.lock:
        lock = Lock.of(outcome.record.reference, outcome.image, outcome.index, datetime.now(UTC), outcome.files)
        lock.write(Path(arguments.lock), trust)

    if not arguments.quiet and not arguments.is_temporary:
        _report(arguments.directory, directory, outcome, time.monotonic() - began, console)
    if arguments.json:
        write_lines([outcome.record.to_json().rstrip()])
    return 0


def _check_lock_outside(lock: Path, directory: Path) -> None:
    """Raise UsageError where a lock would be in DIR."""
    if directory in Path(os.path.realpath(lock)).parents:
        beside = shell_word(f"{directory}.lock")
        what = f"--lock {printable(str(lock))} is in DIR, which may be replaced"
        raise UsageError(what, f"name a file beside it: {beside}")


@contextmanager
def _suggest_container(word: str) -> Iterator[None]:
    """Where the block doesn't find an image, and a container has nearly its name, say how that is started."""
    try:
        yield
    except (NotFound, NetworkError) as error:
        from provisioner.commands.container_names import add_similar_container

        add_similar_container(error, word)
        raise


def _take_source_from_lock(arguments: argparse.Namespace) -> None:
    """Take the image that `--locked` names where the command line has none: its only word, if any, is DIR then.

    Raises UsageError where no image is named, and none can be taken.
    """
    from provisioner.image.lockfile import Lock

    if arguments.directory is not None or not (arguments.locked and _is_directory(arguments.source, arguments.locked)):
        if arguments.source is None:
            raise UsageError("SOURCE is missing", "type provision SOURCE [DIR]; provision help install")
        return
    arguments.directory = arguments.source
    arguments.source = Lock.read(Path(arguments.locked), None).reference


def _is_directory(word: str | None, lock: str) -> bool:
    """Return whether the only word is DIR, or missing: neither a file nor a source of the file `lock`."""
    from provisioner.image.lockfile import parse_locks
    from provisioner.settings import read_settings

    if word is None:
        return True
    known = [found.reference for found in parse_locks(read_settings(Path(lock)), printable(lock))]
    with suppress(UsageError):  # it is no name of a source
        return str(parse_source(word)) not in known and not os.path.isfile(word)
    return True


def _report(name: str, directory: Path, outcome: Outcome, seconds: float, console: Console) -> None:
    """Say that a directory is ready, and how to start it. `name` is how the user wrote it."""
    shown = printable(name)
    summary = _summary(directory, outcome, seconds) if outcome.is_new else ""
    console.step(f"{shown} is ready: {summary}" if outcome.is_new else f"{shown} is up to date")
    command = outcome.image.config.entrypoint + outcome.image.config.command or ("/bin/sh",)
    start = os.path.join("." if os.sep not in name else "", name, SCRIPT)
    console.step(f"  command: {shell_line(command)}")
    console.step(f"  start:   {shell_word(start)}")


def _summary(directory: Path, outcome: Outcome, seconds: float) -> str:
    """Return what an image took: `427.0 MB in 5.1 s, 45,000 files, 1.1 GB unpacked`."""
    from provisioner.container_files import OWNERSHIP_RECORD
    from provisioner.ownership.mtree import count_files

    with machine_errors("read the ownership record"), open(directory / FOLDER / OWNERSHIP_RECORD, "rb") as record:
        files, total = count_files(record)
    size = size_text(outcome.record.download_size)
    return f"{size} in {seconds:.1f} s, {counted(files, 'file')}, {size_text(total)} unpacked"


def _check_default_directory(
    directory: str, existing: Record | None, name: SourceName, other: SourceName | None
) -> None:
    """Raise UsageError where the DIR that was not named holds the image of another source than `name` or `other`."""
    if existing is None or existing.reference in (str(name), str(other)):
        return
    start = shell_word(os.path.join(directory, SCRIPT))
    shown = printable(name.reference.familiar if isinstance(name, RegistryName) else str(name))
    raise UsageError(
        f"{printable(directory)} is a provisioned directory, and holds {printable(existing.reference)}",
        f"start it: {start}; for {shown}, name another directory: provision {shown} DIR",
    )
