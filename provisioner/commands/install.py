"""`provision [install] IMAGE DIR`: turns an image into a directory that runs."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.operands import check_operands, default_directory
from provisioner.commands.output import make_console, number, write_lines
from provisioner.commands.source_options import (
    SourceOptions,
    add_registry_arguments,
    add_source_arguments,
    open_source,
    usual_platform,
)
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.config import Config
from provisioner.container.access import find_directory
from provisioner.errors import UsageError, machine_errors
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.source_name import RegistryName, SourceName, parse_source
from provisioner.launch.settings import IDS, RUNTIMES
from provisioner.sizes import parse_size
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.container.record import Record
    from provisioner.provision import Plan
    from provisioner.terminal.progress import Console

_PASSED_NAME = re.compile("[A-Z][A-Z0-9_]*|[a-z]+_proxy")
"""Names of variables that a shell script leaves as they are."""
_VOLUME = re.compile(
    "(?!(?:docker-archive|oci|oci-archive|dir|rootfs|lxc|containers-storage):)[^:]*:/(?!/).*", re.DOTALL
)
"""What is taken for SRC:DST behind -v: a source of an image isn't."""
_SHELL_VARIABLES = ("PATH", "PWD", "OLDPWD", "LC_ALL", "LD_PRELOAD", "IFS", "OPTIND", "PPID", "SHLVL", "TMPDIR")

HELP = "Turn a container image into a directory that runs"
EXAMPLE = "provision ubuntu ./container && ./container/start.sh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `install`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="ubuntu, ubuntu:24.04, ghcr.io/owner/image@sha256:…, localhost:5000/image; docker-archive:FILE, oci:DIR, "
        "oci-archive:FILE, dir:DIR; ./FILE or ./DIR, known by its content; - is an archive on standard input",
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", help="the directory to create; default: the name of the image, ./ubuntu"
    )
    add_registry_arguments(parser)
    parser.add_argument("--profile", metavar="NAME|FILE", help="default: chosen by the image's os-release")
    parser.add_argument(
        "--dns", metavar="IP", action="append", default=[], help="name server for the container; repeatable"
    )
    parser.add_argument(
        *("--bind", "--volume"),
        metavar="SRC[:DST[:ro]]",
        action="append",
        default=[],
        help="bind SRC to DST at each start; repeatable; also -v SRC:DST, as docker has it",
    )
    parser.add_argument(
        *("--env", "-e"),
        metavar="K=V",
        action="append",
        default=[],
        help="environment variable for each start, or K for the value that it has then; repeatable",
    )
    parser.add_argument(
        "--proot-option", metavar="WORD", action="append", default=[], help="a word for proot at each start; repeatable"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="what start.sh uses; default: what works")
    parser.add_argument(
        "--ids",
        choices=IDS,
        help="many: all ids of /etc/subuid, for su, sudo, sshd and postgres in user namespaces; only they can delete "
        "DIR then. Default: one",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a DIR that provision made; changes in it are lost"
    )
    add_source_arguments(parser)
    parser.add_argument("--jobs", metavar="N", type=number(1, 64), help="downloads at a time; default: 4")
    parser.add_argument(
        "--max-size", metavar="SIZE", help="the most that the image may take, as 20G; default: 9/10 of the free space"
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
    parser.add_argument("--json", action="store_true", help="print the record of what was provisioned")


def with_volume_options(words: Sequence[str]) -> list[str]:
    """Return the command line with docker's `-v SRC:DST` written as `--volume SRC:DST`; any other -v is --verbose."""
    result: list[str] = []
    for word in words:
        if result and result[-1] == "-v" and _VOLUME.fullmatch(word):
            result[-1:] = ["--volume", word]
        elif word.startswith("-v") and _VOLUME.fullmatch(word[2:]):
            result += ["--volume", word[2:]]
        else:
            result.append(word)
    return result


def run(arguments: argparse.Namespace) -> int:
    """Provision a directory, and show how to start it. Raises ProvisionError."""
    config = Config.load()
    trust = trusted_directories(arguments, config)
    check_operands(arguments.source, arguments.directory)
    name = parse_source(arguments.source)
    is_named = arguments.directory is not None
    arguments.directory = arguments.directory if is_named else default_directory(name)
    directory = find_directory(arguments.directory, trust)
    if directory == directory.parent:
        raise UsageError("DIR can't be the root directory", "name a directory below it")

    # Slow imports: mistakes on the command line are reported before them.
    from provisioner.container.directories import Directories, KnownDirectory, state_directory
    from provisioner.container.staging import scratch_directory
    from provisioner.image.lockfile import Lock, check_writable
    from provisioner.provision import existing_record, provision

    plan = _plan(arguments, config, directory, trust)
    console = make_console(arguments)
    if not is_named:
        _check_default_directory(arguments.directory, existing_record(directory, trust), name)
        console.step(f"DIR is {printable(arguments.directory)}, by the image's name")
    options = SourceOptions.of(arguments, config)
    if arguments.no_cache:
        options = replace(options, scratch=scratch_directory(directory))
    if arguments.lock:
        check_writable(Path(arguments.lock), trust)
    _warn_of_missing_binds(plan.binds, console)
    with open_source(name, options, console) as source:
        shown = name.reference.familiar if isinstance(name, RegistryName) else printable(source.reference)
        console.step(f"provision {shown} for {plan.platform}")
        outcome = provision(plan, source, console)
    with suppress(OSError):  # only `provision list` needs it
        Directories(state_directory()).add(KnownDirectory(str(directory), outcome.record.reference))
    if arguments.lock:
        lock = Lock.of(outcome.record.reference, outcome.image, outcome.index, datetime.now(UTC))
        lock.write(Path(arguments.lock), trust)

    where = printable(arguments.directory)
    console.step(f"{where} is up to date" if not outcome.is_new else f"{where} is ready")
    command = outcome.image.config.entrypoint + outcome.image.config.command or ("/bin/sh",)
    start = os.path.join("." if os.sep not in arguments.directory else "", arguments.directory, "start.sh")
    console.step(f"  command: {printable(shlex.join(command))}")
    console.step(f"  start:   {printable(shlex.quote(start))}")
    if arguments.json:
        write_lines([outcome.record.to_json().rstrip()])
    return 0


def _check_default_directory(directory: str, existing: Record | None, name: SourceName) -> None:
    """Raise UsageError where the DIR that was not named holds the image of another source than `name`."""
    if existing is None or existing.reference == str(name):
        return
    start = printable(shlex.quote(os.path.join(directory, "start.sh")))
    shown = printable(name.reference.familiar if isinstance(name, RegistryName) else str(name))
    raise UsageError(
        f"{printable(directory)} is a provisioned directory, and holds {printable(existing.reference)}",
        f"start it: {start}; for {shown}, name another directory: provision {shown} DIR",
    )


def _warn_of_missing_binds(binds: Sequence[str], console: Console) -> None:
    """Warn of what is to be bound and isn't there; it may be there at the start."""
    for bind in binds:
        source = bind.rpartition(":/")[0] or bind.removesuffix(":ro")
        if not os.path.exists(source):
            console.warn(f"--bind {printable(bind)}: {printable(source)} isn't there; starts go on without it")


def _plan(arguments: argparse.Namespace, config: Config, directory: Path, trust: TrustedDirectories) -> Plan:
    """Return the plan by the options, else by the configuration. Raises UsageError."""
    from provisioner.layers.unpack import UnpackOptions
    from provisioner.provision import Plan

    max_size = None if arguments.max_size is None else parse_max_size(arguments.max_size)
    return Plan(
        directory,
        usual_platform(arguments, config),
        UnpackOptions(max_size, arguments.hardlinks),
        profile=arguments.profile or config.profile,
        dns=tuple(_address(text) for text in arguments.dns) or config.dns,
        force=arguments.force,
        shell=script_shell(),
        binds=tuple(_bind(text) for text in arguments.bind),
        env=tuple(_variable(text) for text in arguments.env),
        proot_options=config.proot_options + tuple(arguments.proot_option),
        runtime=arguments.runtime,
        ids=_ids(arguments),
        sync=not arguments.no_sync,
        trust=trust,
    )


def script_shell() -> str:
    """Return the interpreter for start.sh: in Termux `$PREFIX/bin/sh`, since its /bin/sh needs termux-exec."""
    prefix = os.environ.get("PREFIX", "")
    shell = os.path.join(prefix, "bin/sh")
    return shell if prefix.startswith("/data/") and os.access(shell, os.X_OK) else "/bin/sh"


def parse_max_size(text: str) -> int:
    """Return the bytes of a value of --max-size. Raises UsageError."""
    hint = "give a size such as 500M, 20G or 1.5T"
    try:
        size = parse_size(text)
    except ValueError:
        raise UsageError(f"--max-size {printable(text)!r} is not a size", hint) from None
    if not size:
        raise UsageError("--max-size 0 leaves no room for anything", hint)
    return size


def _ids(arguments: argparse.Namespace) -> str | None:
    """Return the value of --ids, None where it isn't given. Raises UsageError where it can't be."""
    if arguments.ids == "many":
        if os.geteuid() == 0:
            raise UsageError("--ids many is for users: root's chroot has all ids", "leave it out, or don't use sudo")
        if arguments.runtime not in ("auto", "userns"):
            raise UsageError(
                f"--ids many and --runtime {arguments.runtime} exclude each other", "leave out one of them"
            )
    ids: str | None = arguments.ids
    return ids


def _bind(text: str) -> str:
    """Return SRC[:DST[:ro]] with an absolute SRC. The last ":/" divides them, as in start.sh."""
    source, divider, destination = text.rpartition(":/") if ":/" in text else (text, "", "")
    if not source:
        raise UsageError(f"--bind {printable(text)!r} names nothing to bind", "give SRC or SRC:/DST")
    with machine_errors(f"look at {printable(source)}"):  # the current directory may be gone
        return os.path.abspath(source) + divider + destination


def _variable(text: str) -> str:
    """Return NAME=VALUE, or a NAME whose value start.sh takes from its caller."""
    if text.find("=") < 1 and not (_PASSED_NAME.fullmatch(text) and text not in _SHELL_VARIABLES):
        raise UsageError(
            f"--env {printable(text)!r} is not NAME=VALUE",
            "give a name, an equals sign and a value, or a NAME in capitals",
        )
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"--dns {printable(text)!r} is not an IP address", "give an address such as 9.9.9.9") from None
