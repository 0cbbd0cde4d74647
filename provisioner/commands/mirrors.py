"""`provision mirrors`: tries mirrors of Docker Hub and of LXC images, and puts those that work into config.toml."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.commands.output import add_insecure_argument, make_console, screen_of, write_json, write_lines
from provisioner.commands.registry_sources import environment_mirrors
from provisioner.config import Config, config_file
from provisioner.errors import MachineError, NetworkError, UsageError, machine_errors
from provisioner.image.reference import DOCKER_HUB, Reference
from provisioner.image.server_address import ServerAddress
from provisioner.resources import read_resource
from provisioner.settings import line_of, with_list
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import Column, table

if TYPE_CHECKING:
    from provisioner.registry.mirror_check import Outcome, Server

HELP = "Try which mirrors answer here, and how fast they are"
EXAMPLE = "provision mirrors --write"
QUIET = "only what is to be put into config.toml"

LXC = "lxc"
_IMAGE = "busybox"
"""The image on Docker Hub whose layer is fetched: a small one that every mirror should have."""
_COLUMNS = (
    Column("SERVER"),
    Column("OF"),
    Column("SPEED", right=True),
    Column("LIMIT", optional=True),
    Column("", flexible=True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mirrors`."""
    parser.add_argument("--write", action="store_true", help="put those that are worth it into config.toml")
    parser.add_argument("--json", action="store_true", help="print all that was found out, as JSON")
    add_insecure_argument(parser)


@dataclass(frozen=True)
class Tried:
    """A server, and what came of trying it."""

    service: str
    """`docker.io` or `lxc`."""
    address: str
    """As in config.toml; of the registry or the LXC image server itself its name."""
    kind: str
    """`origin`, `configured` or `known`."""
    outcome: Outcome


def run(arguments: argparse.Namespace) -> int:
    """Try the servers and show what came of it. Raises NetworkError where none works, UsageError, MachineError."""
    config = Config.load()
    known, checked = _known(config)
    console = make_console(arguments)
    services = {DOCKER_HUB: _registries(arguments, config, known), LXC: _image_servers(arguments, config, known)}
    tried = _try(services, console)
    wanted = {service: worth_using([each for each in tried if each.service == service]) for service in services}
    screen = screen_of(arguments)
    if arguments.json:
        write_json({"checked": checked, "servers": [_json(each) for each in tried], "config": wanted})
    elif not arguments.quiet:
        write_lines([*table(_COLUMNS, [_row(each) for each in tried], screen), ""])
    if not any(not each.outcome.problem for each in tried):
        raise NetworkError("no server answers, neither Docker Hub nor LXC nor a mirror", "check the network")
    if arguments.write:
        _write(wanted, config, console)
    elif not arguments.json:
        write_lines(_lines(wanted, config))
    return 0


def _known(config: Config) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the mirrors to try by service, and when the packaged list was checked; "" for the user's own list."""
    if config.known_mirrors is not None:
        return config.known_mirrors, ""
    import tomllib  # a slow import that --help doesn't need

    values = tomllib.loads(read_resource("profiles", "mirrors.toml").decode())
    return values, str(values.pop("checked"))


def _registries(
    arguments: argparse.Namespace, config: Config, known: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, Server[Any]]]:
    """Return the registries of Docker Hub's images: address, kind, and what tries it."""
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.credentials import Credentials
    from provisioner.registry.mirror_check import ANSWER_SECONDS, RegistryServer
    from provisioner.registry.mirrors import locate_mirror

    origin, credentials = Reference.parse(_IMAGE), Credentials.of_environment()

    def server(where: Reference, is_plain: bool) -> RegistryServer:
        insecure = arguments.insecure or is_plain or config.is_insecure(where.registry)
        client = RegistryClient(
            where, insecure=insecure, credentials=credentials, warn=lambda line: None, seconds=ANSWER_SECONDS
        )
        return RegistryServer(client)

    own = (*environment_mirrors(), *config.mirrors_for(DOCKER_HUB))
    found: list[tuple[str, str, Server[Any]]] = [(DOCKER_HUB, "origin", server(origin, False))]
    for address, kind in _kinds(own, known.get(DOCKER_HUB, ())):
        found.append((address, kind, server(*locate_mirror(address, origin))))
    return found


def _image_servers(
    arguments: argparse.Namespace, config: Config, known: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, Server[Any]]]:
    """Return the LXC image servers: address, kind, and what tries it."""
    from provisioner.registry.lxc_server import LxcServer
    from provisioner.registry.mirror_check import ANSWER_SECONDS, ImageServer

    def server(text: str) -> ImageServer:
        address = ServerAddress.parse(text)
        insecure = arguments.insecure or config.is_insecure(address.host)
        return ImageServer(LxcServer(address, insecure=insecure, seconds=ANSWER_SECONDS))

    kinds = {config.lxc.server: "origin"} | dict(_kinds(config.lxc.mirrors, known.get(LXC, ())))
    return [(address, kind, server(address)) for address, kind in kinds.items()]


def _kinds(own: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return the addresses of mirrors with their kinds, those of the user first, each once."""
    return list((dict.fromkeys(known, "known") | dict.fromkeys(own, "configured")).items())


def _try(services: Mapping[str, Sequence[tuple[str, str, Server[Any]]]], console: Console) -> list[Tried]:
    """Return what came of trying all servers."""
    from provisioner.registry.mirror_check import try_servers

    tried = []
    with console.progress(sum(map(len, services.values())), "server") as progress:
        for service, servers in services.items():
            outcomes = try_servers([server for _, _, server in servers], progress.advance)
            for (address, kind, _), outcome in zip(servers, outcomes, strict=True):
                tried.append(Tried(service, address, kind, outcome))
    return tried


def worth_using(tried: Sequence[Tried]) -> list[str]:
    """Return the mirrors of one service for config.toml: those that work and are faster than the origin, fastest first.

    Where the origin doesn't work, all that do. Mirrors that the user has configured come last where they aren't among
    them: nothing of a user's is taken away.
    """
    speeds = {each.address: each.outcome.speed or 0.0 for each in tried if not each.outcome.problem}
    origin = next((speeds.get(each.address, -1.0) for each in tried if each.kind == "origin"), -1.0)
    mirrors = [each.address for each in tried if each.kind != "origin"]
    good = sorted((name for name in mirrors if speeds.get(name, -1.0) > origin), key=lambda name: -speeds[name])
    return [*good, *(each.address for each in tried if each.kind == "configured" and each.address not in good)]


def _row(each: Tried) -> tuple[str, ...]:
    outcome = each.outcome
    speed = "" if outcome.speed is None else f"{size_text(int(outcome.speed))}/s"
    limit = str(outcome.limit or "").removeprefix("; ")
    notes = [outcome.problem or ("" if outcome.is_verified else "slow"), "" if each.kind == "known" else each.kind]
    return each.address, "LXC" if each.service == LXC else "Docker Hub", speed, limit, ", ".join(filter(None, notes))


def _json(each: Tried) -> dict[str, Any]:
    outcome = each.outcome
    limit = outcome.limit
    return {
        "service": each.service,
        "address": each.address,
        "kind": each.kind,
        "works": not outcome.problem,
        "problem": outcome.problem or None,
        "bytes_per_second": None if outcome.speed is None else int(outcome.speed),
        "verified": outcome.is_verified,
        "limit": limit and limit.limit,
        "remaining": limit and limit.remaining,
        "window": limit and limit.window,
    }


def _configured(service: str, config: Config) -> list[str]:
    return list(config.lxc.mirrors if service == LXC else config.mirrors_for(service))


def _lines(wanted: Mapping[str, Sequence[str]], config: Config) -> list[str]:
    """Return what to put into config.toml, as text for the user."""
    changes = {service: mirrors for service, mirrors in wanted.items() if mirrors != _configured(service, config)}
    if not changes:
        return ["config.toml needs no change"]
    text = ""
    for service, mirrors in changes.items():
        text = with_list(text, *_place(service), mirrors)
    return ["for config.toml (provision mirrors --write puts it there):", "", *text.splitlines()]


def _place(service: str) -> tuple[str, str]:
    """Return the table of config.toml, and the key in it, for the mirrors of a service."""
    return (LXC, "mirrors") if service == LXC else ("mirrors", service)


def _write(wanted: Mapping[str, Sequence[str]], config: Config, console: Console) -> None:
    """Put the mirrors into config.toml. Raises UsageError where it can't be changed, MachineError."""
    path = config_file()
    if path is None:
        raise MachineError("this user has no home directory for config.toml", "set HOME, or PROVISION_CONFIG")
    shown = printable(str(path))
    old = text = _read(path)
    for service, mirrors in wanted.items():
        if mirrors == _configured(service, config):
            continue
        name, key = _place(service)
        try:
            text = with_list(text, name, key, mirrors)
        except ValueError as error:
            what = f"{shown} can't be changed: {printable(str(error))}{line_of(text, name)}"
            raise UsageError(what, "write it as such a table, or run without --write and put the lines in") from None
    if text == old:
        console.step(f"{shown} needs no change")
        return
    changed = Config.parse(text, shown)
    if other := [service for service in wanted if wanted[service] != _configured(service, changed)]:
        name, key = _place(other[0])
        what = f"{shown} can't be changed: it names {key} in [{name}] in another spelling as well{line_of(text, name)}"
        raise UsageError(what, "leave one of them, then run again")
    _replace(path, text)
    console.step(f"{shown} is changed")


def _read(path: Path) -> str:
    from provisioner.settings import read_settings

    return read_settings(path) if os.path.lexists(path) else ""


def _replace(path: Path, text: str) -> None:
    from provisioner.filesystem.atomic import replace_file

    with machine_errors(f"write {printable(str(path))}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        replace_file(path, text.encode(), mode)
