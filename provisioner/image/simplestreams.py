"""The images of LXC image servers: products in simplestreams (`streams/v1/index.json` and the files that it names).

A product is one variant of a release of a distribution for one architecture. Its versions are called builds here; each
has a root file system as `root.tar.xz`. Disks, squashfs and deltas are ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from provisioner.errors import MalformedImage, NotFound, error_context
from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document
from provisioner.image.manifest import Descriptor
from provisioner.image.platform import Platform, choose
from provisioner.image.server_address import checked_path
from provisioner.image.source_name import Lxc
from provisioner.terminal.escaping import printable

INDEX_PATH = "streams/v1/index.json"
"""The path of the index, relative to the address of a server."""
DOCUMENT_LIMIT = 16 << 20
"""The most bytes that an index or a list of products may have, ten times the largest real ones."""
LISTS_LIMIT = 8
"""The most lists of products that are read from one server."""

ROOTFS_TYPE = "application/x-xz"
"""The media type of root file systems."""

_ROOT = "root.tar.xz"
_DEFAULT = "default"
_BUILD = re.compile(r"[A-Za-z0-9_:+.-]{1,100}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]{0,99}")
_ARCHITECTURES = {"ppc64el": "ppc64le"}
"""Debian's names of architectures that Platform doesn't know."""


@dataclass(frozen=True)
class Build:
    """One version of a product: its root file system."""

    name: str
    """A name such as `20260912_05:24`. Later builds sort after earlier ones."""
    path: str
    """The path of the file, relative to the address of the server, not escaped for a URL."""
    digest: Digest
    size: int

    @property
    def descriptor(self) -> Descriptor:
        """Return the descriptor of the file."""
        return Descriptor(ROOTFS_TYPE, self.digest, self.size)


@dataclass(frozen=True)
class Product:
    """One variant of a release of a distribution for one platform."""

    distribution: str
    release: str
    variant: str
    platform: Platform
    aliases: frozenset[tuple[str, str, str]] = frozenset()
    """Its other names: distribution, release, variant."""
    versions: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The JSON object of its versions."""

    @property
    def name(self) -> str:
        """Return `distribution/release`, with `/variant` unless it is the default one."""
        return f"{self.distribution}/{self.release}" + ("" if self.variant == _DEFAULT else f"/{self.variant}")

    @property
    def names(self) -> frozenset[tuple[str, str, str]]:
        """Return all its names, each as (distribution, release, variant)."""
        return self.aliases | {(self.distribution, self.release, self.variant)}

    @cached_property
    def newest(self) -> Build | None:
        """The newest version with a root file system, or None. Raises MalformedImage."""
        for name in sorted(self.versions, reverse=True):
            if build := self._build(name):
                return build
        return None

    @cached_property
    def oldest(self) -> Build | None:
        """The oldest version with a root file system, or None. Raises MalformedImage."""
        return next(filter(None, map(self._build, sorted(self.versions))), None)

    def _build(self, name: str) -> Build | None:
        where = f"the version {printable(name)[:100]!r} of {self.name}"
        items = JsonObject(self.versions[name], where).optional("items", dict) or {}
        found = [item for item in items.values() if isinstance(item, dict) and item.get("ftype") == _ROOT]
        if not found:
            return None
        if not _BUILD.fullmatch(name):
            raise MalformedImage(f"{where} has an invalid name")
        fields = JsonObject(found[0], f"{where}: {_ROOT}")
        digest = parse_digest(f"sha256:{fields.text('sha256').lower()}", f"{where}: sha256")
        return Build(name, checked_path(fields.text("path"), where), digest, fields.size("size"))


@dataclass(frozen=True)
class Products:
    """All products of a server."""

    products: tuple[Product, ...]

    @classmethod
    def from_json(cls, documents: Iterable[bytes]) -> Products:
        """Return the products in lists from a server. Raises MalformedImage.

        Malformed products are left out.
        """
        found = []
        for data in documents:
            fields = JsonObject(parse_document(data, "the list of products", {}), "the list of products")
            for key, value in (fields.optional("products", dict) or {}).items():
                if product := _product(key, value):
                    found.append(product)
        return cls(tuple(found))

    def named(self, name: Lxc) -> tuple[Product, ...]:
        """Return the products with this name, one for each platform. Raises NotFound that lists what exists instead."""
        wanted = tuple(word.lower() for word in (name.distribution, name.release, name.variant))
        found = tuple(product for product in self.products if wanted in product.names)
        if found:
            return found
        every = {each for product in self.products for each in product.names}
        releases = {each[1] for each in every if each[0] == wanted[0]}
        if not releases:
            raise self.no_distribution(name.distribution)
        variants = {each[2] for each in every if each[:2] == wanted[:2]}
        if not variants:
            what = (
                f"{name.distribution} has no LXC image of the release {name.release!r}; it has {_join_names(releases)}"
            )
            raise NotFound(what, f"see provision tags lxc:{wanted[0]}")
        what = (
            f"{'/'.join(wanted[:2])} has no LXC image of the variant {name.variant!r}; it has {_join_names(variants)}"
        )
        raise NotFound(what, f"name one: lxc:{wanted[0]}/{wanted[1]}/{min(variants)}")

    def no_distribution(self, name: str) -> NotFound:
        """Return the error for a distribution without products."""
        near = difflib.get_close_matches(name.lower(), {product.distribution for product in self.products}, 3)
        similar = f"; similar: {', '.join(near)}" if near else ""
        return NotFound(f"no LXC image is called {name!r}{similar}", "provision search lxc: lists all")

    def builds(self, name: Lxc) -> dict[Platform, Build]:
        """Return the newest build of a name for each platform. Raises NotFound if there is none, and MalformedImage."""
        with error_context(str(name)):
            builds = {product.platform: product.newest for product in self.named(name)}
        found = {platform: build for platform, build in builds.items() if build}
        if not found:
            raise NotFound(f"{name} has no {_ROOT}", "it is for virtual machines only: name another variant")
        return found

    def matching(self, prefix: str) -> list[Product]:
        """Return the products with a name, `distribution/release/variant`, that begins with `prefix`, sorted by
        name."""
        wanted = prefix.lower()
        found = [
            product for product in self.products if any("/".join(name).startswith(wanted) for name in product.names)
        ]
        return sorted(found, key=lambda product: (product.name, str(product.platform)))


def build_for(builds: Mapping[Platform, Build], platform: Platform, what: str) -> tuple[Platform, Build]:
    """Return the best of `builds` for `platform`, after its own platform. Raises NotFound that lists all."""
    return choose([(known, (known, build)) for known, build in builds.items()], platform, what)


def parse_list_paths(data: bytes) -> list[str]:
    """Return the paths of the lists of products that `streams/v1/index.json` names. Raises MalformedImage."""
    index = JsonObject(parse_document(data, INDEX_PATH, {}), INDEX_PATH).optional("index", dict) or {}
    streams = [JsonObject(value, f"{INDEX_PATH}: {printable(key)[:100]}") for key, value in index.items()]
    images = [stream for stream in streams if stream.optional_text("datatype") == "image-downloads"]
    paths = dict.fromkeys(checked_path(stream.text("path"), INDEX_PATH) for stream in images)
    if not paths:
        raise MalformedImage(f"{INDEX_PATH} names no images", "name an LXC image server that has simplestreams")
    return list(paths)[:LISTS_LIMIT]


def build_name(path: str) -> str:
    """Return the name of the build with the file `path`: the name of the file's directory."""
    return path.rpartition("/")[0].rpartition("/")[2]


def _product(key: str, value: object) -> Product | None:
    """Return the product in parsed JSON, or None if it is malformed. Its key is `DIST:RELEASE:ARCH:VARIANT`."""
    try:
        fields = JsonObject(value, "product")
        words = key.split(":")
        distribution = words[0] if len(words) == 4 else fields.text("os")
        release, variant = fields.text("release"), fields.optional_text("variant") or _DEFAULT
        architecture = fields.text("arch")
        aliases = fields.optional_text("aliases").split(",")
        versions = fields.optional("versions", dict) or {}
    except MalformedImage:
        return None
    names = [distribution, release, variant, architecture]
    if not all(map(_WORD.fullmatch, names)):
        return None
    platform = Platform.normalized("linux", _ARCHITECTURES.get(architecture, architecture))
    others = frozenset(filter(None, map(_alias, aliases)))
    return Product(distribution.lower(), release.lower(), variant.lower(), platform, others, versions)


def _alias(text: str) -> tuple[str, str, str] | None:
    """Return the distribution, release and variant of an alias such as `debian/12`; None for other words."""
    words = text.strip().lower().split("/")
    if len(words) not in (2, 3) or not all(map(_WORD.fullmatch, words)):
        return None
    return words[0], words[1], words[2] if len(words) == 3 else _DEFAULT


def _join_names(words: set[str]) -> str:
    shown = sorted(words)
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
