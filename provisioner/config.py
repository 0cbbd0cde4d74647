"""`config.toml`: what a user wants of every run, so that it needn't be said each time."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.filesystem.user_directories import user_directory
from provisioner.image.platform import Platform
from provisioner.image.reference import parse_registry
from provisioner.settings import Key, parse_settings, read_settings, texts
from provisioner.sizes import size
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Config:
    """What the file says; its defaults where it says nothing. Every field is a key, with its row in KEYS.

    `cache_limit` is in bytes, None for no limit; `insecure` and the keys of `mirrors` are registries, whose mirrors are
    written `[http://]HOST[:PORT][/PREFIX]`.
    """

    platform: Platform | None = None
    profile: str | None = None
    jobs: int = 4
    dns: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    cache_limit: int | None = None
    trust_dir: tuple[str, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """The user's own file: `$PROVISION_CONFIG`, which has to be there, else `provision/config.toml` in
        `$XDG_CONFIG_HOME` (XDG Base Directory Specification). Raises UsageError.
        """
        own = environment.get("PROVISION_CONFIG")
        usual = user_directory("XDG_CONFIG_HOME", ".config", environment)
        path = Path(own) if own else usual and usual / "config.toml"
        if path is None or (not own and not path.exists()):
            return cls()
        return cls.parse(read_settings(path), printable(str(path)))

    @classmethod
    def parse(cls, text: str, name: str) -> Config:
        """Make it of TOML. Raises UsageError that names the line and the key, and lists the known ones after a typo."""
        values = parse_settings(text, KEYS, name)
        return cls(**{key.replace("-", "_"): value for key, value in values.items()})

    def mirrors_for(self, registry: str) -> tuple[str, ...]:
        """The mirrors of a registry, the first to be asked first."""
        return self.mirrors.get(registry, ())

    def is_insecure(self, registry: str) -> bool:
        """Whether plain HTTP, and certificates that can't be verified, are allowed for this registry."""
        return registry in self.insecure


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("not a text")
    return value


def _platform(value: Any) -> Platform:
    return Platform.parse(_text(value))


def _jobs(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise ValueError("not a number from 1 to 64")
    return value


def _addresses(value: Any) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_address(text)) for text in texts(value))


def _directories(value: Any) -> tuple[str, ...]:
    if wrong := [text for text in texts(value) if text != "*" and not os.path.isabs(text)]:
        raise ValueError(f"{wrong[0]!r} is not an absolute path")
    return tuple(value)


def _registries(value: Any) -> tuple[str, ...]:
    return tuple(parse_registry(text) for text in texts(value))


def _mirrors(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("not a table of lists")
    return {parse_registry(registry): tuple(map(_mirror, texts(mirrors))) for registry, mirrors in value.items()}


def _mirror(text: str) -> str:
    if "@" in text:
        raise ValueError("a mirror's address can't have credentials in it")  # nor are they shown
    parse_registry(text.removeprefix("http://").removeprefix("https://").partition("/")[0])
    return text


KEYS = {
    "platform": Key(_platform, "the platform to provision for, such as linux/arm64; this machine's without it"),
    "profile": Key(_text, "name or file of the profile; by the image's os-release without it"),
    "jobs": Key(_jobs, "downloads at a time, 1 to 64; 4 without it"),
    "dns": Key(_addresses, "list of addresses of name servers for containers"),
    "insecure": Key(_registries, "list of registries that may be spoken to without verified certificates or in HTTP"),
    "cache-limit": Key(size, "size that the cache is kept below after each run, such as 4 GB; no limit without it"),
    "trust-dir": Key(_directories, "list of absolute paths of directories that others may own or write to; * is all"),
    "mirrors": Key(_mirrors, "table of registry to list of mirrors, the first to be asked first"),
}
"""All keys of the file: the parser and the help line; the defaults are Config's own."""
