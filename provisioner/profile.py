"""Profiles: TOML files with the settings that a distribution or a use needs beyond its image."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.errors import UsageError
from provisioner.filesystem.resolution import open_file
from provisioner.resources import read_resource, resource_names
from provisioner.settings import Key, addresses, parse_settings, texts
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Profile:
    """The settings of a profile. Every field but `name` is a key of the file, with a row in KEYS."""

    name: str = "default"
    match: tuple[str, ...] = ()
    """The IDs in os-release(5) of the distributions that it is for."""
    dns: tuple[str, ...] = ()
    """IP addresses of name servers."""
    env: tuple[str, ...] = ()
    """Environment variables for every start, as NAME=VALUE."""
    binds: tuple[str, ...] = ()
    """Bind mounts for every start, as SOURCE[:DESTINATION]."""
    proot_options: tuple[str, ...] = ()
    """Words for proot at every start."""
    hostname: str = ""
    """Empty for the name of the container's directory."""
    files: tuple[tuple[bytes, bytes], ...] = field(default=())
    """Files to write: each a path below the rootfs, and its content."""

    @classmethod
    def parse(cls, name: str, text: str) -> Profile:
        """Return the profile in `text`, which is TOML. Raises UsageError."""
        values = parse_settings(text, KEYS, f"profile {printable(name)}")
        return cls(name, **{key.replace("-", "_"): value for key, value in values.items()})


_NO_PROFILES = ("catalogue.toml", "mirrors.toml")
"""The files in the same directory that are not profiles."""


def load_profile(name: str) -> Profile:
    """Return the bundled profile `name`, or the profile in the file `name` if that has a slash or ends in .toml.

    Raises UsageError.
    """
    if "/" in name or name.endswith(".toml"):
        try:
            with open(open_file(name), encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"read the profile {printable(name)}: {why}", _choices()) from None
        return Profile.parse(Path(name).stem, text)
    if name not in profile_names():
        raise UsageError(f"there is no profile {printable(name)!r}", _choices())
    return Profile.parse(name, read_resource("profiles", f"{name}.toml").decode())


def profile_names() -> list[str]:
    """Return the names of the bundled profiles."""
    return [file.removesuffix(".toml") for file in resource_names("profiles", ".toml") if file not in _NO_PROFILES]


def _choices() -> str:
    return f"there are {', '.join(profile_names())}; a file of your own needs a slash in its name"


def match_profile(os_release: bytes) -> Profile:
    """Return the bundled profile for the ID in an os-release(5), else for its ID_LIKE, or Profile() if none matches."""
    release = _os_release(os_release.decode(errors="replace"))
    profiles = [load_profile(name) for name in profile_names()]
    for identity in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
        for profile in profiles:
            if identity in profile.match:
                return profile
    return Profile()


def _os_release(text: str) -> dict[str, str]:
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            try:
                values[name] = " ".join(shlex.split(value))
            except ValueError:  # a quote that isn't closed
                continue
    return values


def _variables(value: Any) -> tuple[str, ...]:
    if not isinstance(value, dict) or not all(isinstance(text, str) and "\0" not in text for text in value.values()):
        raise ValueError("not a table of texts")
    if bad := [name for name in value if not name or "=" in name or "\0" in name]:
        raise ValueError(f"{bad[0]!r} can't be the name of a variable")
    return tuple(f"{name}={text}" for name, text in value.items())


def _hostname(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62})", value):
        raise ValueError("not a host name")
    return value


def _files(value: Any) -> tuple[tuple[bytes, bytes], ...]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("not a table of texts")
    if bad := [path for path in value if not _is_file_path(path)]:
        raise ValueError(f"{bad[0]!r} is not the absolute path of a file in the container")
    return tuple((path.encode(), text.encode()) for path, text in value.items())


def _is_file_path(path: str) -> bool:
    return path.startswith("/") and not path.endswith(("/", "/.")) and ".." not in path.split("/") and "\0" not in path


KEYS = {
    "match": Key(texts, "list of the IDs in os-release that this profile is for"),
    "dns": Key(addresses, "list of addresses of name servers"),
    "env": Key(_variables, "table of environment variables for every start"),
    "binds": Key(texts, "list of SOURCE[:DESTINATION] to bind at every start"),
    "proot-options": Key(texts, "list of further options of proot for every start"),
    "hostname": Key(_hostname, "hostname of the container; default: its directory's name"),
    "files": Key(_files, "table of files to write: absolute path to content"),
}
"""All keys of a profile. The defaults are those of Profile."""
