"""Lock files: what an image was at one time, so that others, and later runs, get exactly that."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provisioner.errors import MachineError, MalformedImage, UsageError, machine_errors
from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform, choose
from provisioner.image.reference import Reference
from provisioner.settings import Key, parse_settings, read_settings, texts
from provisioner.terminal.escaping import printable

_FORMAT = 1
_OF_ANOTHER = "name the image that it is of, or lock this one: provision --lock FILE IMAGE DIR"


@dataclass(frozen=True)
class Lock:
    """What `reference` named at the time `locked`: an `index` with manifests by platform, or without one just one.

    `layers` are those of the platforms that were provisioned, from the lowest up.
    """

    reference: str
    locked: datetime.datetime
    manifests: Mapping[Platform, Digest]
    layers: Mapping[Platform, tuple[Digest, ...]] = field(default_factory=dict)
    index: Digest | None = None

    @classmethod
    def of(cls, reference: str, image: Image, index: Index | None, now: datetime.datetime) -> Lock:
        """The lock of an image, and of its siblings in the index that its tag names."""
        entries = index.manifests if index else ()
        own = (entry.platform for entry in entries if entry.digest == image.digest and entry.platform)
        platform = next(own, image.config.platform)
        manifests = {platform: image.digest}
        for entry in entries:
            if entry.platform:
                manifests.setdefault(entry.platform, entry.digest)
        layers = {platform: tuple(layer.digest for layer in image.manifest.layers)}
        return cls(reference, now.replace(microsecond=0), manifests, layers, image.index_digest)

    @classmethod
    def parse(cls, text: str, name: str) -> Lock:
        """Make a lock of TOML. Raises UsageError that names the file, the line and the key."""
        values = parse_settings(text, KEYS, name)
        if missing := [key for key in ("format", "reference", "locked", "manifests") if key not in values]:
            raise UsageError(f"{name}: {missing[0]} is missing", "write it anew: provision --lock FILE IMAGE DIR")
        values.pop("format")
        return cls(**values)

    @classmethod
    def read(cls, path: Path, reference: Reference) -> Lock:
        """The lock in a file, which has to be of `reference`. Raises UsageError."""
        shown = printable(str(path))
        lock = cls.parse(read_settings(path), shown)
        if lock.reference != str(reference):
            raise UsageError(f"{shown} is the lock of {lock.reference}, not of {reference}", _OF_ANOTHER)
        return lock

    @property
    def digest(self) -> Digest:
        """What the tag named."""
        return self.index or next(iter(self.manifests.values()))

    def manifest(self, platform: Platform) -> tuple[Platform, Digest]:
        """The best of what is locked for `platform`. Raises NotFound that lists what there is."""
        return choose([(known, (known, digest)) for known, digest in self.manifests.items()], platform, "the lock")

    def to_toml(self) -> str:
        """The lock as it is written: one line for each thing that can change."""
        lines = [
            "# What an image was when it was locked; `provision --locked` gets exactly that.",
            f"format = {_FORMAT}",
            f"reference = {_quoted(self.reference)}",
            f"locked = {self.locked.astimezone(datetime.UTC).isoformat().replace('+00:00', 'Z')}",
        ]
        lines += [f"index = {_quoted(self.index)}"] if self.index else []
        lines += ["", "[manifests]"]
        lines += [f"{_quoted(platform)} = {_quoted(digest)}" for platform, digest in _sorted(self.manifests)]
        lines += ["", "[layers]"]
        for platform, layers in _sorted(self.layers):
            lines += [f"{_quoted(platform)} = [", *(f"    {_quoted(layer)}," for layer in layers), "]"]
        return "\n".join(lines) + "\n"

    def write(self, path: Path, trust: TrustedDirectories = NOBODY) -> None:
        """Write the lock. A file of the same image keeps its time, and what it says of other platforms' layers.

        Raises MachineError.
        """
        shown, text = printable(str(path)), self.to_toml()
        with suppress(UsageError):  # where there is none, or it isn't one
            old = Lock.parse(read_settings(path), shown)
            same = replace(self, locked=old.locked, layers={**old.layers, **self.layers})
            if replace(same, layers=old.layers) == old:
                text = same.to_toml()
        try:
            with machine_errors(f"write the lock {shown}"):
                replace_file(path, text.encode(), 0o644, trust)
        except MachineError as error:
            error.hint = "run again with a file in a directory that is there and can be written: --lock FILE"
            raise


def _quoted(value: object) -> str:
    return json.dumps(str(value))


def _sorted(table: Mapping[Platform, Any]) -> list[tuple[Platform, Any]]:
    return sorted(table.items(), key=lambda item: str(item[0]))


def _format(value: Any) -> int:
    if value != _FORMAT or isinstance(value, bool):
        raise ValueError(f"another format than {_FORMAT}: it is of another version of provision")
    return int(value)


def _reference(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return str(Reference.parse(value))


def _moment(value: Any) -> datetime.datetime:
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise ValueError("not a time such as 2026-01-31T12:00:00Z")
    return value


def _digest(value: Any) -> Digest:
    try:
        return Digest.parse(value if isinstance(value, str) else repr(value))
    except MalformedImage as error:
        raise ValueError(error.message) from None


def _by_platform(value: Any, parse: Any) -> dict[Platform, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError("not a table of platforms")
    table = {}
    for name, item in value.items():
        os, _, rest = name.partition("/")
        architecture, _, variant = rest.partition("/")
        if not os or not architecture or not name.isprintable():
            raise ValueError(f"{name!r} is not a platform such as linux/arm64")
        table[Platform(os, architecture, variant)] = parse(item)
    return table


def _manifests(value: Any) -> dict[Platform, Digest]:
    return _by_platform(value, _digest)


def _layers(value: Any) -> dict[Platform, tuple[Digest, ...]]:
    return _by_platform(value, lambda layers: tuple(_digest(layer) for layer in texts(layers)))


KEYS = {
    "format": Key(_format, f"the form of the file, {_FORMAT}"),
    "reference": Key(_reference, "the image that was asked for, in full"),
    "locked": Key(_moment, "the time when it was looked up"),
    "index": Key(_digest, "the digest of the index that the reference named"),
    "manifests": Key(_manifests, "table of platform to the digest of a manifest"),
    "layers": Key(_layers, "table of platform to the digests of its layers"),
}
"""All keys of a lock file."""
