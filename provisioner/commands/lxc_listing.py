"""What LXC image servers have, for `provision search lxc:…` and `provision tags lxc:…`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from provisioner.commands.lxc_sources import lxc_images
from provisioner.commands.source_options import SourceOptions
from provisioner.config import Config
from provisioner.errors import MalformedImage, UsageError
from provisioner.image.offers import Offer, Tag
from provisioner.image.platform import Platform
from provisioner.registry.tag_order import newest_first
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.image.simplestreams import Build, Product, Products

PREFIX = "lxc:"
"""How the names of these images begin."""


@dataclass(frozen=True)
class Found:
    """One image of a list: a variant of a release of a distribution."""

    name: str
    """As `provision` takes it."""
    platforms: tuple[str, ...]
    updated: str
    """When the newest build was made, as far as its name says that; else empty."""


def search(text: str, config: Config, console: Console, *, insecure: bool) -> list[Found]:
    """Return the images whose names begin with what follows `lxc:`. Raises ProvisionError."""
    products = lxc_images(SourceOptions(config, insecure), console).products()
    matching = products.matching(text.removeprefix(PREFIX).strip())
    return [_found(name, list(group)) for name, group in groupby(matching, key=lambda product: product.name)]


def tags(
    text: str, platform: Platform | None, arguments: argparse.Namespace, config: Config, console: Console
) -> tuple[list[Tag], int]:
    """Return the releases and variants of `lxc:DISTRIBUTION` for a platform, and how many there are for any.

    With `/` and the beginning of a release behind it, only those. The newest come first. Raises UsageError, NotFound.
    """
    distribution, _, prefix = text.removeprefix(PREFIX).lower().partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", distribution):
        raise UsageError(f"{printable(text)[:200]!r} names no distribution", "write it as lxc:debian")
    products = lxc_images(SourceOptions.of(arguments, config), console).products()
    every = _of(products, distribution, prefix)
    by_name = {name: list(group) for name, group in groupby(every, key=lambda product: product.name.partition("/")[2])}
    listed = [_tag(name, by_name[name], platform) for name in newest_first(by_name)]
    return [tag for tag in listed if platform is None or tag.offer(platform)], len(listed)


def _of(products: Products, distribution: str, prefix: str) -> list[Product]:
    """Return the products of a distribution; raises NotFound where there is none of it at all."""
    found = [
        product
        for product in products.matching(f"{distribution}/")
        if any("/".join(name[1:]).startswith(prefix) for name in product.names if name[0] == distribution)
    ]
    if not found and not products.matching(f"{distribution}/"):
        raise products.no_distribution(distribution)
    return found


def _tag(name: str, products: Iterable[Product], platform: Platform | None) -> Tag:
    """Return a release or variant as a tag, with the digest of the file for `platform`."""
    builds = [(product.platform, build) for product in products if (build := _newest(product))]
    offers = tuple(Offer(each, build.descriptor, build.size) for each, build in builds)
    tag = Tag(name, None, offers, max((_time(build) for _, build in builds), default=""))
    best = tag.offer(platform) if platform else None
    return replace(tag, digest=best.manifest.digest) if best and best.manifest else tag


def _found(name: str, products: list[Product]) -> Found:
    builds = [build for product in products if (build := _newest(product))]
    platforms = tuple(str(product.platform) for product in products)
    return Found(f"{PREFIX}{name}", platforms, max(map(_time, builds), default=""))


def _newest(product: Product) -> Build | None:
    """Return the newest build of a product; None where there is none, or a malformed one, which others don't suffer."""
    try:
        return product.newest
    except MalformedImage:
        return None


def _time(build: Build) -> str:
    """Return the time in the name of a build, such as `20260912_05:24`, as in RFC 3339; empty for another name."""
    match = re.fullmatch(r"(20\d\d)([01]\d)([0-3]\d)(?:_([0-2]\d):?([0-5]\d))?", build.name, re.ASCII)
    if match is None:
        return ""
    year, month, day, hour, minute = match.groups()
    return f"{year}-{month}-{day}" + (f"T{hour}:{minute}:00Z" if hour else "")
