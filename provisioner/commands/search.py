"""`provision search QUERY`: lists repositories on Docker Hub."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from provisioner.commands import lxc_listing
from provisioner.commands.output import (
    NAMES_ALONE,
    add_insecure_argument,
    add_output_arguments,
    make_console,
    screen_of,
    write_json,
    write_lines,
)
from provisioner.config import Config
from provisioner.errors import NotFound, UsageError
from provisioner.image.reference import DOCKER_HUB, parse_registry
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.tables import Column, count_text, table

HELP = "Search Docker Hub for images, or LXC image servers"
EXAMPLE = "provision search alpine"
QUIET = NAMES_ALONE

_MOST = 10_000
"""The largest number of results that Docker Hub returns."""

_COLUMNS = (
    Column("NAME"),
    Column(""),
    Column("STARS", "{} stars", right=True),
    Column("PULLS", "{} pulls", right=True),
    Column("DESCRIPTION", flexible=True),
)
_LXC_COLUMNS = (Column("NAME"), Column("BUILT", "built {}"), Column("PLATFORMS", flexible=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `search`."""
    parser.add_argument(
        "query",
        metavar="QUERY",
        nargs="+",
        help="words to look for in names and descriptions; lxc:deb lists LXC images whose names begin so",
    )
    add_output_arguments(parser, "repositories")
    add_insecure_argument(parser)
    parser.add_argument("--all", action="store_true", help="list every repository that is found, up to 10,000")


def run(arguments: argparse.Namespace) -> int:
    """Show the repositories. Raises NotFound where there are none, NetworkError, UsageError."""
    query = " ".join(" ".join(arguments.query).split())
    if not query:
        raise UsageError("there is nothing to search for", "name a word: provision search alpine")
    if not query.isprintable():
        raise UsageError(f"{query!r} can't be searched for", "name words of letters and digits")

    if query.startswith(lxc_listing.PREFIX):
        return _search_lxc(query, arguments)
    from provisioner.registry.hub import Hub

    query = _without_registry(query)
    found, count = Hub(insecure=arguments.insecure).search(query, _MOST if arguments.all else arguments.limit)
    screen = screen_of(arguments)
    if arguments.json:
        write_json({"repositories": [asdict(repository) for repository in found]})
    elif arguments.quiet or screen.width is None:
        write_lines(repository.name for repository in found)
    else:
        rows = [
            (
                repository.name,
                "official" if repository.is_official else "",
                count_text(repository.stars),
                count_text(repository.pulls),
                repository.description or "no description",
            )
            for repository in found
        ]
        write_lines(table(_COLUMNS, rows, screen))
    if not found:
        raise NotFound(f"Docker Hub finds nothing for {query!r}", "try a shorter word")
    if len(found) < count and not arguments.all:
        make_console(arguments).step(f"{len(found):,} of {count:,} that were found; more with --limit N or --all")
    return 0


def _without_registry(query: str) -> str:
    """Return a query without `docker.io/`, as podman writes it. Raises UsageError where it names another registry."""
    host, slash, rest = query.partition("/")
    if not slash or " " in query or not (set(".:") & set(host) or host == "localhost"):
        return query
    if parse_registry(host) == DOCKER_HUB:
        return rest.removeprefix("library/") or query
    image = shell_word(query if rest else f"{host}/NAME")
    raise UsageError(
        f"search asks Docker Hub, and not {printable(host)}", f"the tags of an image there: provision tags {image}"
    )


def _search_lxc(query: str, arguments: argparse.Namespace) -> int:
    """Show the images of an LXC image server. Raises NotFound where there are none, NetworkError, UsageError."""
    console = make_console(arguments)
    every = lxc_listing.search(query, Config.load(), console, insecure=arguments.insecure)
    found = every if arguments.all else every[: arguments.limit]
    screen = screen_of(arguments)
    if arguments.json:
        write_json({"images": [asdict(image) for image in found]})
    elif arguments.quiet or screen.width is None:
        write_lines(image.name for image in found)
    else:
        rows = [(image.name, image.updated[:10], " ".join(image.platforms)) for image in found]
        write_lines(table(_LXC_COLUMNS, rows, screen))
    if not found:
        raise NotFound(f"no LXC image has a name that begins with {query!r}", "provision search lxc: lists all")
    if len(found) < len(every):
        console.step(f"{len(found):,} of {len(every):,} that were found; more with --limit N or --all")
    return 0
