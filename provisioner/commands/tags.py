"""`provision tags IMAGE`: lists the tags of a repository for this machine's platform, the newest first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from provisioner.commands import lxc_listing
from provisioner.commands.output import (
    NAMES_ALONE,
    add_output_arguments,
    make_console,
    number,
    screen_of,
    write_json,
    write_lines,
)
from provisioner.commands.registry_sources import caching_registry
from provisioner.commands.source_options import SourceOptions, add_registry_arguments, usual_platform
from provisioner.config import Config
from provisioner.errors import NetworkError, NotFound, UsageError
from provisioner.image.platform import Platform
from provisioner.image.reference import DOCKER_HUB, Reference
from provisioner.registry.tag_order import newest_first
from provisioner.sizes import counted, size_text
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import Column, table

if TYPE_CHECKING:
    from provisioner.image.offers import Tag
    from provisioner.registry.hub import Hub
    from provisioner.store.documents import CachingRegistry

HELP = "List an image's tags for this machine's platform, newest first"
EXAMPLE = "provision tags ubuntu"
QUIET = NAMES_ALONE

_COLUMNS = (
    Column("TAG"),
    Column("SIZE", right=True),
    Column("PUSHED", "pushed {}"),
    Column("DIGEST", optional=True),
    Column("PLATFORMS", flexible=True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tags`."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="a repository; ubuntu:24 lists the tags that begin with 24; lxc:debian lists LXC images",
    )
    add_output_arguments(parser, "tags")
    parser.add_argument("--all", action="store_true", help="list every tag, whatever its platforms")
    add_registry_arguments(parser)
    parser.add_argument("--jobs", metavar="N", type=number(1, 64), default=8, help="requests at a time; default: 8")


@dataclass(frozen=True)
class _Query:
    """Which tags to list."""

    name: str
    """Whose tags they are, for messages."""
    prefix: str
    """How the tags begin."""
    platform: Platform | None
    """None for any."""
    limit: int | None
    """The most tags to list; None for all."""


def run(arguments: argparse.Namespace) -> int:
    """Show the tags. Raises NotFound where there are none for the platform, NetworkError, NotAllowed."""
    config = Config.load()
    screen = screen_of(arguments)
    names_only = not arguments.json and (arguments.quiet or screen.width is None)
    console = make_console(arguments)
    find = _find_lxc if arguments.image.startswith(lxc_listing.PREFIX) else _find
    query, tags, count = find(arguments, config, not names_only, console)
    if arguments.json:
        write_json({"tags": [_json(tag, query.platform) for tag in tags]})
    elif names_only:
        write_lines(tag.name for tag in tags)
    else:
        write_lines(table(_COLUMNS, [_row(tag, query.platform) for tag in tags], screen))
    if not tags:
        raise _nothing_found(query, count)
    if len(tags) == query.limit and len(tags) < count:
        console.step(
            f"{counted(len(tags), 'tag')} for {query.platform}, of {count} in all; more with --limit N or --all"
        )
    return 0


def _find(
    arguments: argparse.Namespace, config: Config, sized: bool, console: Console
) -> tuple[_Query, list[Tag], int]:
    """Return the tags of a repository, with sizes if `sized`, and how many begin with the prefix."""
    from provisioner.registry.hub import Hub, suggest_similar_names

    reference = Reference.parse(arguments.image)
    query = _query(reference, arguments, config)
    registry = caching_registry(reference, SourceOptions.of(arguments, config), console, arguments.jobs)
    hub = Hub(insecure=arguments.insecure, connections=arguments.jobs)
    with suggest_similar_names(reference):
        found = _find_on_hub(reference, query, hub, console) if reference.registry == DOCKER_HUB else None
        tags, count = found or _find_on_registry(query, registry, sized, arguments.jobs, console)
    return query, tags, count


def _find_lxc(
    arguments: argparse.Namespace, config: Config, sized: bool, console: Console
) -> tuple[_Query, list[Tag], int]:
    """Return the releases and variants of a distribution on an LXC image server, and how many there are in all."""
    name, _, prefix = arguments.image.partition("/")
    platform = None if arguments.all else usual_platform(arguments, config)
    tags, count = lxc_listing.tags(arguments.image, platform, arguments, config, console)
    limit = None if arguments.all else arguments.limit
    return _Query(name, prefix, platform, limit), tags[:limit], count


def _query(reference: Reference, arguments: argparse.Namespace, config: Config) -> _Query:
    if reference.digest:
        raise UsageError("a digest has no tags", "leave out the @ and what follows it")
    prefix = reference.tag or ""
    if not arguments.image.endswith(f":{prefix}"):
        prefix = ""  # parse() adds `latest` to a reference without a tag
    platform = usual_platform(arguments, config)
    return _Query(
        reference.name, prefix, None if arguments.all else platform, None if arguments.all else arguments.limit
    )


def _find_on_hub(reference: Reference, query: _Query, hub: Hub, console: Console) -> tuple[list[Tag], int] | None:
    """Return the tags by the API of Docker Hub, and how many begin with the prefix; None where it doesn't have them."""
    try:
        known, count = hub.tags(reference.repository)
    except NotFound:  # the registry knows private repositories too
        return None
    except NetworkError as error:
        console.step(f"{error.message}; the registry is asked instead")
        return None
    if count > len(known):
        console.step(f"of {count:,} tags only the {len(known):,} that were pushed last were looked at")
    tags = {tag.name: tag for tag in known if tag.name.startswith(query.prefix)}
    fitting = (tags[name] for name in newest_first(tags) if _fits(tags[name], query))
    return list(islice(fitting, query.limit)), len(tags)


def _find_on_registry(
    query: _Query, registry: CachingRegistry, sized: bool, jobs: int, console: Console
) -> tuple[list[Tag], int]:
    """Return the tags by the manifests of a registry, with sizes if `sized`, and how many begin with the prefix."""
    from provisioner.image.offers import Tag
    from provisioner.registry.tags import tag_names
    from provisioner.sources.tags import with_offers, with_sizes

    listed = tag_names(registry.tags_page, registry.reference.registry)
    names = newest_first(name for name in listed if name.startswith(query.prefix))
    if query.platform is None:
        return [Tag(name) for name in names[: query.limit]], len(names)

    problems: list[str] = []
    with (
        console.progress(len(names), "tag") as progress,
        closing(with_offers(registry, names, jobs, query.platform)) as candidates,
    ):

        def fitting() -> Iterator[Tag]:
            for tag in candidates:
                progress.advance(1)
                if tag.problem:
                    problems.append(f"{tag.name}: {tag.problem}")
                if _fits(tag, query):
                    yield tag

        tags = list(islice(fitting(), query.limit))
    if problems and not tags:
        console.step(f"{counted(len(problems), 'tag names', 'tags name')} no image; {problems[0]}")
    return list(with_sizes(registry, tags, query.platform, jobs)) if sized else tags, len(names)


def _fits(tag: Tag, query: _Query) -> bool:
    return query.platform is None or tag.offer(query.platform) is not None


def _nothing_found(query: _Query, count: int) -> NotFound:
    name = query.name
    if count:
        return NotFound(f"{name} has {counted(count, 'tag')}, but none for {query.platform}", "--all lists them")
    what = f"tags that begin with {query.prefix!r}" if query.prefix else "tags"
    return NotFound(f"{name} has no {what}", "leave out the tag to see all" if query.prefix else "")


def _row(tag: Tag, platform: Platform | None) -> tuple[str, ...]:
    """Return one row of the table. Platforms are listed only where none is asked for."""
    best = tag.offer(platform) if platform else None
    return (
        tag.name,
        size_text(best.size) if best and best.size is not None else "",
        tag.updated[:10],
        tag.digest.short if tag.digest else "",
        " ".join(_platforms(tag)) if platform is None else "",
    )


def _json(tag: Tag, platform: Platform | None) -> dict[str, Any]:
    best = tag.offer(platform) if platform else None
    return {
        "name": tag.name,
        "digest": str(tag.digest) if tag.digest else None,
        "platforms": _platforms(tag) or None,
        "platform": str(best.platform) if best else None,
        "size": best.size if best else None,
        "updated": tag.updated or None,
    }


def _platforms(tag: Tag) -> list[str]:
    return list(dict.fromkeys(str(offer.platform) for offer in tag.offers))
