"""The catalogue: sources for short names, for platforms on which Docker Hub has no image of that name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.errors import UsageError
from provisioner.image.platform import Platform
from provisioner.image.source_name import Lxc, RegistryName, SourceName, Url, parse_source
from provisioner.resources import read_resource

_EVERY = "*"
_WHOLE = re.compile(r"([a-z-]+:)?(/|~/|https?://)")
"""The beginning of a word that is a URL or an absolute path, with or without a transport."""
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Catalogue:
    """Short names, each with sources by platform."""

    sources: Mapping[str, Mapping[Platform | None, SourceName]] = field(default_factory=dict)
    """Sources by name and platform; the key None is for all other platforms."""

    @classmethod
    def parse(cls, value: Any) -> Catalogue:
        """Return the catalogue of parsed TOML: by name, a table of platform to source. Raises ValueError,
        UsageError."""
        if not isinstance(value, dict):
            raise ValueError("not a table of names")
        return cls({_name(name): _sources(name, table) for name, table in value.items()})

    @classmethod
    def packaged(cls) -> Catalogue:
        """Return the catalogue that comes with provision."""
        import tomllib  # a slow import that --help doesn't need

        values = tomllib.loads(read_resource("profiles", "catalogue.toml").decode())
        return cls.parse({name: value for name, value in values.items() if name != "checked"})

    def find(self, name: str, platform: Platform) -> SourceName | None:
        """Return the source of a short name for `platform`, or None.

        If several platforms run on it, the newest variant is chosen; if none does, the source for `*`.
        """
        table = self.sources.get(name, {})
        fitting = [known for known in table if known and known.satisfies(platform)]
        best = max(fitting, key=lambda known: known.level, default=None)
        return table.get(best)


def is_short(text: str) -> bool:
    """Return whether a word is a bare name such as `archlinux`: without registry, path, tag, digest and transport."""
    return bool(_NAME.fullmatch(text))


def _name(text: str) -> str:
    if not is_short(text):
        raise ValueError(f"{text!r} is not a bare name such as 'archlinux'")
    return text


def _sources(name: str, table: Any) -> dict[Platform | None, SourceName]:
    if not isinstance(table, dict):
        raise ValueError(f"{name!r} is not a table of platform to source")
    return {None if key == _EVERY else Platform.parse(key): _source(name, text) for key, text in table.items()}


def _source(name: str, text: Any) -> SourceName:
    if not isinstance(text, str):
        raise ValueError(f"{name!r} has a source that is not a text")
    if is_short(text):
        raise UsageError(f"{text!r} is a short name", f"write it in full: docker://docker.io/library/{text}")
    source = parse_source(text)
    if not isinstance(source, RegistryName | Lxc | Url) and not _WHOLE.match(text):
        raise UsageError(f"{text!r} is not a source for {name!r}", "name a file by its absolute path")
    return source
