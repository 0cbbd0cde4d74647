"""`config.toml`: the defaults that a user sets for every run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.catalogue import Catalogue
from provisioner.filesystem.user_directories import user_directory
from provisioner.image.platform import Platform
from provisioner.image.reference import parse_registry
from provisioner.image.server_address import ServerAddress
from provisioner.settings import Key, addresses, parse_settings, read_settings, texts
from provisioner.sizes import parse_size
from provisioner.terminal.escaping import printable

LXC_SERVER = "images.linuxcontainers.org"
"""The LXC image server for `lxc:` unless config.toml names another one."""


@dataclass(frozen=True)
class LxcServers:
    """The table `lxc` of config.toml. Servers are `[http://|https://]HOST[:PORT][/PREFIX]`."""

    server: str = LXC_SERVER
    """The server that lists the images."""
    mirrors: tuple[str, ...] = ()
    """Other servers with the same files, in the order in which they are asked."""


@dataclass(frozen=True)
class Config:
    """The settings of config.toml. Every field is a key of the file, with a row in KEYS and its default here."""

    platform: Platform | None = None
    """None for the platform of this machine."""
    profile: str | None = None
    """The name or file of a profile; None to choose it by the image's os-release."""
    jobs: int = 4
    """Downloads at a time."""
    dns: tuple[str, ...] = ()
    """IP addresses of name servers for containers."""
    proot_options: tuple[str, ...] = ()
    """Words for proot at every start, in addition to those of the profile."""
    insecure: tuple[str, ...] = ()
    """Registries for which plain HTTP and certificates that can't be verified are allowed."""
    cache_limit: int | None = None
    """Bytes; None for no limit."""
    trust_dir: tuple[str, ...] = ()
    """Absolute paths of directories that others may own or write to; `*` for all."""
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The mirrors of each registry, as `[http://]HOST[:PORT][/PREFIX]`, in the order in which they are asked."""

    lxc: LxcServers = LxcServers()
    """The LXC image server and its mirrors."""
    catalogue: Catalogue = field(default_factory=Catalogue)
    """The user's own short names."""
    known_mirrors: Mapping[str, tuple[str, ...]] | None = None
    """The mirrors that `provision mirrors` tries, by registry, or `lxc`; None for the list that comes with
    provision."""

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """Read the user's file and return its settings, or the defaults if there is no file.

        The file is `config_file()`. If `$PROVISION_CONFIG` names it, it must exist. Raises UsageError.
        """
        path = config_file(environment)
        if path is None or (not environment.get("PROVISION_CONFIG") and _is_missing(path)):
            return cls()
        return cls.parse(read_settings(path), printable(str(path)))

    @classmethod
    def parse(cls, text: str, name: str) -> Config:
        """Return the settings in `text`, which is TOML. `name` is the file's name in errors. Raises UsageError."""
        values = parse_settings(text, KEYS, name)
        return cls(**{key.replace("-", "_"): value for key, value in values.items()})

    def mirrors_for(self, registry: str) -> tuple[str, ...]:
        """Return the mirrors of a registry, in the order in which they are asked."""
        return self.mirrors.get(registry, ())

    def is_insecure(self, registry: str) -> bool:
        """Return whether plain HTTP and certificates that can't be verified are allowed for this registry."""
        return registry in self.insecure


def config_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of config.toml, which need not exist; None if the user has no home directory.

    It is `$PROVISION_CONFIG`, else `provision/config.toml` in `$XDG_CONFIG_HOME` (XDG Base Directory Specification).
    """
    if chosen := environment.get("PROVISION_CONFIG"):
        return Path(chosen)
    usual = user_directory("XDG_CONFIG_HOME", ".config", environment)
    return usual and usual / "config.toml"


def _is_missing(path: Path) -> bool:
    """Return whether nothing is at a path for sure: what this user may not look at isn't missing."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


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


def _directories(value: Any) -> tuple[str, ...]:
    if relative := [text for text in texts(value) if text != "*" and not os.path.isabs(text)]:
        raise ValueError(f"{relative[0]!r} is not an absolute path")
    return tuple(value)


def _registries(value: Any) -> tuple[str, ...]:
    return tuple(parse_registry(text) for text in texts(value))


def _mirrors(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("not a table of lists")
    return {parse_registry(registry): tuple(map(_mirror, texts(mirrors))) for registry, mirrors in value.items()}


def _mirror(text: str) -> str:
    if "@" in text:
        raise ValueError("a mirror's address can't have credentials in it")  # not quoted: it may hold a password
    parse_registry(text.removeprefix("http://").removeprefix("https://").partition("/")[0])
    return text


def _lxc(value: Any) -> LxcServers:
    if not isinstance(value, dict):
        raise ValueError("not a table")
    if unknown := [key for key in value if key not in ("server", "mirrors")]:
        raise ValueError(f"unknown key {unknown[0]!r}; known keys: server, mirrors")
    return LxcServers(_server(value.get("server", LXC_SERVER)), tuple(map(_server, texts(value.get("mirrors", [])))))


def _server(value: Any) -> str:
    text = _text(value)
    ServerAddress.parse(text)
    return text


def _known_mirrors(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("not a table of lists")
    servers = {"lxc": tuple(map(_server, texts(value["lxc"])))} if "lxc" in value else {}
    return _mirrors({key: item for key, item in value.items() if key != "lxc"}) | servers


KEYS = {
    "platform": Key(_platform, "the platform to provision for, such as linux/arm64; default: this machine's"),
    "profile": Key(_text, "name or file of the profile; default: chosen by the image's os-release"),
    "jobs": Key(_jobs, "downloads at a time, 1 to 64; default: 4"),
    "dns": Key(addresses, "list of addresses of name servers for containers"),
    "proot-options": Key(texts, "list of further options of proot for every start"),
    "insecure": Key(
        _registries, "list of registries for which HTTP and certificates that can't be verified are allowed"
    ),
    "cache-limit": Key(parse_size, "size to which the cache is pruned after each run, such as 4 GB; default: no limit"),
    "trust-dir": Key(_directories, "list of absolute paths of directories that others may own or write to; * for all"),
    "mirrors": Key(_mirrors, "table of registry to list of mirrors, in the order in which they are asked"),
    "lxc": Key(_lxc, "table with the LXC image server, and the list of its mirrors"),
    "catalogue": Key(Catalogue.parse, "table by short name, each a table of platform (or *) to source"),
    "known-mirrors": Key(
        _known_mirrors, "table of registry (or lxc) to the list of mirrors that `provision mirrors` tries"
    ),
}
"""All keys of the file. The defaults are those of Config."""
