"""`provision IMAGE DIR`: the main job."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.opening import (
    Opening,
    add_registry_arguments,
    add_source_arguments,
    clients,
    mirrored,
    opened,
    usual_platform,
)
from provisioner.commands.output import write_lines
from provisioner.config import Config
from provisioner.errors import UsageError, machine_errors
from provisioner.image.reference import Reference
from provisioner.launch.settings import RUNTIMES
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.provision import Plan

HELP = "Turn a container image into a directory that runs: provision ubuntu ./container && ./container/start.sh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the main job."""
    parser.add_argument(
        "image", metavar="IMAGE", help="ubuntu, ubuntu:24.04, ghcr.io/owner/image@sha256:…, localhost:5000/image"
    )
    parser.add_argument("directory", metavar="DIR", help="the directory to make")
    add_registry_arguments(parser)
    parser.add_argument("--profile", metavar="NAME|FILE", help="default: by the image's os-release")
    parser.add_argument("--dns", metavar="IP", action="append", default=[], help="name server inside; repeatable")
    parser.add_argument(
        "--bind", metavar="SRC[:DST]", action="append", default=[], help="show SRC inside at each start; repeatable"
    )
    parser.add_argument(
        "--env", metavar="K=V", action="append", default=[], help="variable inside at each start; repeatable"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="what start.sh uses; default: what works")
    parser.add_argument("--force", action="store_true", help="replace a DIR that provision made, and all changes in it")
    add_source_arguments(parser)
    parser.add_argument("--jobs", metavar="N", type=_jobs, help="downloads at a time; default: 4")
    parser.add_argument(
        "--max-size", metavar="SIZE", help="the most that the image may take, as 20G; default: 9/10 of the free space"
    )
    parser.add_argument(
        "--hardlinks",
        choices=("auto", "copy", "symlink"),
        default="auto",
        help="what stands in for hard links where they are refused; default: auto, a reflink or else a copy",
    )
    parser.add_argument("--quiet", action="store_true", help="show errors only")
    parser.add_argument("--json", action="store_true", help="print the record of what was provisioned")


def run(arguments: argparse.Namespace) -> int:
    """Provision, and say where it is and how to start it. Raises ProvisionError."""
    reference = Reference.parse(arguments.image)
    config = Config.load()
    with machine_errors(f"look at {printable(arguments.directory)}"):
        directory = Path(os.path.realpath(arguments.directory))
    if directory == directory.parent or not arguments.directory:
        raise UsageError("DIR can't be the root directory", "name a directory below it")

    # The rest is imported here so that mistakes on the command line are told at once.
    from provisioner.container.directories import Directories, KnownDirectory, state_directory
    from provisioner.container.staging import scratch_directory
    from provisioner.image.lockfile import Lock
    from provisioner.provision import provision
    from provisioner.registry.hub import near_names

    plan = _plan(arguments, config, directory)
    console = Console(quiet=arguments.quiet)
    jobs = arguments.jobs or config.jobs
    client = clients(arguments, config, jobs)
    registry = mirrored(reference, arguments, config, client, console)
    scratch = scratch_directory(directory)
    opening = Opening(reference, registry, client(reference, False), jobs, scratch, config.cache_limit)
    with opened(opening, arguments, console) as source, near_names(reference):
        console.step(f"provision {reference.familiar} for {plan.platform}")
        outcome = provision(plan, source, console)
    with suppress(OSError):  # only `provision list` needs it
        Directories(state_directory()).add(KnownDirectory(str(directory), outcome.record.reference))
    if arguments.lock:
        Lock.of(str(reference), outcome.image, outcome.index, datetime.now(UTC)).write(Path(arguments.lock))

    where = printable(arguments.directory)
    console.step(f"{where} is up to date" if not outcome.is_new else f"{where} is ready")
    command = outcome.image.config.entrypoint + outcome.image.config.command or ("/bin/sh",)
    start = os.path.join("." if os.sep not in arguments.directory else "", arguments.directory, "start.sh")
    console.step(f"  command: {printable(shlex.join(command))}")
    console.step(f"  start:   {printable(shlex.quote(start))}")
    if arguments.json:
        write_lines([outcome.record.to_json().rstrip()])
    return 0


def _plan(arguments: argparse.Namespace, config: Config, directory: Path) -> Plan:
    """What is asked for, on the command line or else in the configuration. Raises UsageError."""
    from provisioner.layers.unpack import UnpackOptions
    from provisioner.ownership.policy import Ownership
    from provisioner.provision import Plan

    max_size = None if arguments.max_size is None else _size(arguments.max_size)
    return Plan(
        directory,
        usual_platform(arguments, config),
        UnpackOptions(Ownership.of_this_process(), max_size, arguments.hardlinks),
        profile=arguments.profile or config.profile,
        dns=tuple(_address(text) for text in arguments.dns) or config.dns,
        force=arguments.force,
        shell=_shell(),
        binds=tuple(_bind(text) for text in arguments.bind),
        env=tuple(_variable(text) for text in arguments.env),
        runtime=arguments.runtime,
    )


def _shell() -> str:
    """The interpreter for start.sh: Termux has none at /bin/sh that suits (termux-exec may be off)."""
    prefix = os.environ.get("PREFIX", "")
    own = os.path.join(prefix, "bin/sh")
    return own if prefix.startswith("/data/") and os.access(own, os.X_OK) else "/bin/sh"


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError("a number from 1 to 64")
    return number


def _size(text: str) -> int:
    """Bytes: `500M` and `500MB` are 500 * 10**6, `1.5Gi` and `1.5GiB` are 1.5 * 2**30."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([kKMGTP]?)(i?)B?", text)
    if not match or (match[3] and not match[2]):
        raise UsageError(f"--max-size {printable(text)!r} is not a size", "give a size such as 500M, 20G or 1.5T")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGTP".index(match[2].upper() or " "))
    if not size:
        raise UsageError("--max-size 0 leaves no room for anything", "give a size such as 500M, 20G or 1.5T")
    return size


def _bind(text: str) -> str:
    """SRC[:DST] with an absolute SRC; the last ":/" divides, as start.sh has it."""
    source, divider, destination = text.rpartition(":/") if ":/" in text else (text, "", "")
    if not source:
        raise UsageError(f"--bind {printable(text)!r} names nothing to bind", "give SRC or SRC:/DST")
    if destination.endswith((":ro", ":rw")):
        raise UsageError(f"--bind has no {destination[-3:]}: what it shows can be written to", "leave it out")
    with machine_errors(f"look at {printable(source)}"):  # the current directory may be gone
        return os.path.abspath(source) + divider + destination


def _variable(text: str) -> str:
    if text.find("=") < 1:
        raise UsageError(f"--env {printable(text)!r} is not NAME=VALUE", "give a name, an equals sign and a value")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"--dns {printable(text)!r} is not an IP address", "give an address such as 9.9.9.9") from None
