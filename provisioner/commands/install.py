"""`provision IMAGE DIR`: the main job."""

from __future__ import annotations

import argparse
import ipaddress
import os
import shlex
import sys
from pathlib import Path

from provisioner.console import Console
from provisioner.errors import UsageError, machine_errors, printable
from provisioner.launcher import RUNTIMES
from provisioner.platforms import Platform, host_platform
from provisioner.reference import Reference

HELP = "Turn a container image into a directory that runs: provision ubuntu ./container && ./container/start.sh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the main job."""
    parser.add_argument(
        "image", metavar="IMAGE", help="ubuntu, ubuntu:24.04, ghcr.io/owner/image@sha256:…, localhost:5000/image"
    )
    parser.add_argument("directory", metavar="DIR", help="the directory to make")
    parser.add_argument("--platform", metavar="P", help="linux/arm64, linux/arm/v7, …; default: this machine's")
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
    parser.add_argument(
        "--insecure", action="store_true", help="allow plain HTTP and certificates that can't be verified"
    )
    parser.add_argument("--jobs", metavar="N", type=_jobs, default=4, help="downloads at a time; default: 4")
    parser.add_argument("--quiet", action="store_true", help="show errors only")
    parser.add_argument("--json", action="store_true", help="print the record of what was provisioned")


def run(arguments: argparse.Namespace) -> int:
    """Provision, and say where it is and how to start it. Raises ProvisionError."""
    reference = Reference.parse(arguments.image)
    platform = Platform.parse(arguments.platform) if arguments.platform else host_platform()
    dns = tuple(_address(text) for text in arguments.dns)
    binds = tuple(_bind(text) for text in arguments.bind)
    env = tuple(_variable(text) for text in arguments.env)
    with machine_errors(f"look at {printable(arguments.directory)}"):
        directory = Path(arguments.directory).resolve()
    if directory == directory.parent or not arguments.directory:
        raise UsageError("DIR can't be the root directory", "name a directory below it")

    # The rest is imported here so that mistakes on the command line are told at once.
    from provisioner.blobs import BlobCache
    from provisioner.provision import Plan, provision
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.hub import near_names
    from provisioner.rootfs.ownership import Ownership
    from provisioner.sources.registry import RegistrySource

    console = Console(quiet=arguments.quiet)
    client = RegistryClient(reference, insecure=arguments.insecure, connections=arguments.jobs)
    source = RegistrySource(reference, client, BlobCache(cache_directory()), arguments.jobs)
    plan = Plan(directory, platform, arguments.profile, dns, arguments.force, _shell(), binds, env, arguments.runtime)
    console.step(f"provision {reference.familiar} for {platform}")
    with near_names(reference):
        outcome = provision(plan, source, Ownership.of_this_process(), console)

    where = printable(arguments.directory)
    console.step(f"{where} is up to date" if not outcome.is_new else f"{where} is ready")
    command = outcome.image.config.entrypoint + outcome.image.config.command or ("/bin/sh",)
    start = os.path.join("." if os.sep not in arguments.directory else "", arguments.directory, "start.sh")
    console.step(f"  command: {printable(shlex.join(command))}")
    console.step(f"  start:   {printable(shlex.quote(start))}")
    if arguments.json:
        sys.stdout.write(outcome.record.to_json())
        sys.stdout.flush()
    return 0


def cache_directory() -> Path:
    """`$PROVISION_CACHE_DIR`, else `provision` in the user's cache directory (XDG Base Directory Specification)."""
    if own := os.environ.get("PROVISION_CACHE_DIR"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    with machine_errors("find the home directory"):
        return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "provision"


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


def _bind(text: str) -> str:
    """SRC[:DST] with an absolute SRC; the last ":/" divides, as start.sh has it."""
    source, divider, destination = text.rpartition(":/") if ":/" in text else (text, "", "")
    if not source:
        raise UsageError(f"--bind {printable(text)!r} names nothing to bind", "give SRC or SRC:/DST")
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
