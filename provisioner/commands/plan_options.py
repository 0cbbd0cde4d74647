"""The options of `install` that say how DIR is made and started."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.run_options import add_run_arguments, run_settings
from provisioner.commands.source_options import usual_platform
from provisioner.commands.unexpanded import check_unexpanded
from provisioner.config import Config
from provisioner.errors import UsageError, machine_errors
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.launch.settings import IDS, RUNTIMES
from provisioner.sizes import parse_size
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.provision.plan import Plan

HARDLINKS = ("auto", "copy", "symlink")
"""The values of --hardlinks."""
_PASSED_NAME = re.compile("[A-Z][A-Z0-9_]*|[a-z]+_proxy")
"""Names of variables that a shell script leaves as they are."""
_SHELL_VARIABLES = ("PATH", "PWD", "OLDPWD", "LC_ALL", "LD_PRELOAD", "IFS", "OPTIND", "PPID", "SHLVL", "TMPDIR")


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that are part of a Plan."""
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
    add_run_arguments(parser)
    parser.add_argument(
        "--proot-option", metavar="WORD", action="append", default=[], help="a word for proot at each start; repeatable"
    )
    parser.add_argument("--hostname", metavar="NAME", help="the container's name; default: that of DIR")
    parser.add_argument("--runtime", choices=RUNTIMES, help="what start.sh uses; default: auto, what works")
    parser.add_argument(
        "--ids",
        choices=IDS,
        help="many: all ids of /etc/subuid, for su, sudo, sshd and postgres in user namespaces; provision remove "
        "deletes DIR then, rm doesn't. Default: one",
    )
    add_max_size_argument(parser)
    parser.add_argument(
        "--hardlinks",
        choices=HARDLINKS,
        help="what to create where hard links are not possible; default: auto, a reflink or else a copy",
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="don't wait for the disk: faster, but a power cut may take files of DIR"
    )


def add_max_size_argument(parser: argparse.ArgumentParser) -> None:
    """Add --max-size."""
    parser.add_argument(
        "--max-size", metavar="SIZE", help="the most that the image may take, as 20G; default: 9/10 of the free space"
    )


def max_size_of(arguments: argparse.Namespace) -> int | None:
    """Return the bytes of --max-size, None where it isn't given. Raises UsageError."""
    return None if arguments.max_size is None else parse_max_size(arguments.max_size)


def plan_of(arguments: argparse.Namespace, config: Config, directory: Path, trust: TrustedDirectories) -> Plan:
    """Return the plan by the options, else by the configuration. Raises UsageError."""
    from provisioner.layers.job import UnpackOptions
    from provisioner.provision.plan import Plan

    return Plan(
        directory,
        usual_platform(arguments, config),
        UnpackOptions(max_size_of(arguments), arguments.hardlinks or "auto"),
        profile=arguments.profile or config.profile,
        dns=tuple(address_of(text) for text in arguments.dns) or config.dns,
        force=arguments.force,
        shell=script_shell(),
        binds=tuple(bind_of(text) for text in arguments.bind),
        env=tuple(variable_of(text) for text in arguments.env),
        proot_options=config.proot_options + tuple(arguments.proot_option),
        runtime=arguments.runtime or "",
        hostname=hostname_of(arguments.hostname),
        run=run_settings(arguments),
        ids=_ids(arguments),
        sync=not arguments.no_sync,
        stop_running=arguments.stop_running,
        waits=not arguments.no_wait,
        is_hardlinks_asked=arguments.hardlinks is not None,
        trust=trust,
    )


def hostname_of(text: str | None) -> str:
    """Return the value of --hostname, empty where it isn't given. Raises UsageError for what is no name of RFC 1123."""
    if text is not None and not re.fullmatch(r"(?=.{1,64}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        raise UsageError(f"--hostname {printable(text)!r} is no name", "use letters, digits, '.' and '-', at most 64")
    return text or ""


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
        if arguments.runtime not in (None, "auto", "userns"):
            raise UsageError(
                f"--ids many and --runtime {arguments.runtime} exclude each other", "leave out one of them"
            )
    ids: str | None = arguments.ids
    return ids


def bind_of(text: str) -> str:
    """Return SRC[:DST[:ro]] with an absolute SRC. The last ":/" divides them, as in start.sh. Raises UsageError."""
    check_unexpanded(text)
    source, divider, destination = text.rpartition(":/") if ":/" in text else (text, "", "")
    if not source:
        raise UsageError(f"--bind {printable(text)!r} names nothing to bind", "give SRC or SRC:/DST")
    with machine_errors(f"look at {printable(source)}"):  # the current directory may be gone
        return os.path.abspath(source) + divider + destination


def warn_of_missing_binds(binds: Iterable[str], console: Console) -> None:
    """Warn of what is to be bound and isn't there; it may be there at the start."""
    for bind in binds:
        source = bind.rpartition(":/")[0] or bind.removesuffix(":ro")
        if not os.path.exists(source):
            console.warn(f"--bind {printable(bind)}: {printable(source)} isn't there; starts go on without it")


def variable_of(text: str) -> str:
    """Return NAME=VALUE, or a NAME whose value start.sh takes from its caller."""
    if text.find("=") < 1 and not (_PASSED_NAME.fullmatch(text) and text not in _SHELL_VARIABLES):
        raise UsageError(
            f"--env {printable(text)!r} is not NAME=VALUE",
            "give a name, an equals sign and a value, or a NAME in capitals",
        )
    return text


def address_of(text: str) -> str:
    """Return the IP address that `--dns` names. Raises UsageError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"--dns {printable(text)!r} is not an IP address", "give an address such as 9.9.9.9") from None
