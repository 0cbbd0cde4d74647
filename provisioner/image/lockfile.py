"""Lock files: the digests that a reference stood for at one time, so that other runs get exactly the same image."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provisioner.errors import MachineError, MalformedImage, UsageError, machine_errors
from provisioner.filesystem.atomic import check_replaceable, replace_file
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform, choose
from provisioner.image.server_address import checked_path
from provisioner.image.source_name import parse_source
from provisioner.settings import Key, line_of, parse_settings, parse_table, read_settings, texts
from provisioner.terminal.escaping import printable, shell_word

_FORMAT = 1
_WRITE_AGAIN = "write the lock again: provision --lock FILE IMAGE DIR"
_HINT_OTHER_IMAGE = "name the image of this lock, or lock the other one: provision --lock FILE IMAGE DIR"


@dataclass(frozen=True)
class LockedFile:
    """A root file system on a server, which has no manifest."""

    digest: Digest
    path: str
    """Relative to the address of the server."""
    size: int


@dataclass(frozen=True)
class Lock:
    """The content of a lock file."""

    reference: str
    locked: datetime.datetime
    """When the registry was asked for the reference."""
    manifests: Mapping[Platform, Digest]
    """The manifests of the index by platform, or the only one."""
    layers: Mapping[Platform, tuple[Digest, ...]] = field(default_factory=dict)
    """By platform, the digests of the layers' blobs from the lowest up; only for platforms that were provisioned."""
    index: Digest | None = None
    """The index that the reference stood for; None if that was a manifest."""
    files: Mapping[Platform, LockedFile] = field(default_factory=dict)
    """By platform, the file of an LXC image server."""

    @classmethod
    def of(
        cls,
        reference: str,
        image: Image,
        index: Index | None,
        now: datetime.datetime,
        files: Mapping[Platform, LockedFile] | None = None,
    ) -> Lock:
        """Return the lock of an image, including the other platforms of its `index` or `files`. `now` is its time."""
        entries = index.manifests if index else ()
        own = (entry.platform for entry in entries if entry.digest == image.digest and entry.platform)
        platform = next(own, image.config.platform)
        manifests = {platform: image.digest}
        for entry in entries:
            if entry.platform:
                manifests.setdefault(entry.platform, entry.digest)
        for other, file in (files or {}).items():
            manifests.setdefault(other, file.digest)
        layers = {platform: tuple(layer.digest for layer in image.manifest.layers)}
        return cls(reference, now.replace(microsecond=0), manifests, layers, image.index_digest, files or {})

    @classmethod
    def parse(cls, text: str, name: str) -> Lock:
        """Return the lock in `text`, which must have only one. Raises UsageError that names the file, the line and the
        key."""
        locks = parse_locks(text, name)
        if len(locks) > 1:
            example = f"provision --locked {shell_word(name)} {printable(locks[0].reference)} DIR"
            raise UsageError(
                f"{name} holds the locks of several images: {_names(locks)}", f"name one of them, as in {example}"
            )
        return locks[0]

    @classmethod
    def of_table(cls, values: dict[str, Any], text: str, name: str) -> Lock:
        """Return the lock of `values`, parsed by KEYS from the file's `text`. Raises UsageError."""
        if missing := [key for key in ("reference", "locked", "manifests") if key not in values]:
            raise UsageError(f"{name}: {missing[0]} is missing", _WRITE_AGAIN)
        for platform, (path, size) in values.pop("files", {}).items():
            if platform not in values["manifests"]:
                raise UsageError(
                    f"{name}: files: {platform} has no digest in manifests{line_of(text, 'files')}", _WRITE_AGAIN
                )
            values.setdefault("files", {})[platform] = LockedFile(values["manifests"][platform], path, size)
        return cls(**values)

    @classmethod
    def read(cls, path: Path, reference: str | None) -> Lock:
        """Return the lock of `reference` in a file. If that is None, the file must have only one lock.

        Raises UsageError, also if the file has no lock of `reference`.
        """
        shown = printable(str(path))
        text = read_settings(path)
        if reference is None:
            return cls.parse(text, shown)
        locks = parse_locks(text, shown)
        found = next((lock for lock in locks if lock.reference == reference), None)
        if found is None:
            what = "is the lock" if len(locks) == 1 else "has the locks"
            raise UsageError(f"{shown} {what} of {_names(locks)}, not of {reference}", _HINT_OTHER_IMAGE)
        return found

    @classmethod
    def read_all(cls, path: Path, word: str) -> tuple[Lock, ...]:
        """Return the locks that may be of the local file `word`.

        That is the lock with this name if there is one; else all of them, since only digests are compared. Raises
        UsageError.
        """
        locks = parse_locks(read_settings(path), printable(str(path)))
        own = [lock for lock in locks if lock.reference == word]
        return tuple(own or locks)

    @property
    def digest(self) -> Digest:
        """Return the digest that the reference stood for: the index's or the manifest's."""
        return self.index or next(iter(self.manifests.values()))

    def manifest(self, platform: Platform) -> tuple[Platform, Digest]:
        """Return platform and digest of the best match for `platform`. Raises NotFound that lists the platforms."""
        return choose([(known, (known, digest)) for known, digest in self.manifests.items()], platform, "the lock")

    def to_toml(self, table: str = "") -> str:
        """Return the lock as TOML, with one line for each digest.

        `table` is empty, or the name of the table that contains it, followed by a dot.
        """
        lines = [
            f"reference = {_quote(self.reference)}",
            f"locked = {self.locked.astimezone(datetime.UTC).isoformat().replace('+00:00', 'Z')}",
        ]
        lines += [f"index = {_quote(self.index)}"] if self.index else []
        lines += ["", f"[{table}manifests]"]
        lines += [f"{_quote(platform)} = {_quote(digest)}" for platform, digest in _sort(self.manifests)]
        if self.files:
            lines += ["", f"[{table}files]"]
        for platform, file in _sort(self.files):
            lines.append(f"{_quote(platform)} = {{ path = {_quote(file.path)}, size = {file.size} }}")
        lines += ["", f"[{table}layers]"]
        for platform, layers in _sort(self.layers):
            lines += [f"{_quote(platform)} = [", *(f"    {_quote(layer)}," for layer in layers), "]"]
        return "\n".join(lines) + "\n"

    def write(self, path: Path, trust: TrustedDirectories = NOBODY) -> None:
        """Write the lock to the file `path`, and keep the locks of other images in it. Raises MachineError.

        An equal lock in the file keeps its time, and the layers of other platforms.
        """
        locks = {self.reference: self}
        with suppress(UsageError):  # there is no file, or it isn't a lock
            old = {lock.reference: lock for lock in parse_locks(read_settings(path), printable(str(path)))}
            locks = {**old, self.reference: self._after(old.get(self.reference))}
        with _writing_errors(path):
            replace_file(path, format_locks(list(locks.values())).encode(), 0o644, trust)

    def _after(self, old: Lock | None) -> Lock:
        """Return this lock, with the time and the layers of the `old` one if they are of the same image."""
        if old is None:
            return self
        same = replace(self, locked=old.locked, layers={**old.layers, **self.layers})
        return same if replace(same, layers=old.layers) == old else self


def parse_locks(text: str, name: str) -> list[Lock]:
    """Return all locks of a file: one at its top level, or several in tables `[[image]]`. Raises UsageError."""
    values = parse_settings(text, {**KEYS, "image": Key(_tables, "the locks of several images")}, name)
    if "format" not in values:
        raise UsageError(f"{name}: format is missing", _WRITE_AGAIN)
    del values["format"]
    tables = values.pop("image", None)
    if tables is None:
        return [Lock.of_table(values, text, name)]
    if values:
        raise UsageError(f"{name}: {next(iter(values))} is outside of [[image]]", _WRITE_AGAIN)
    return [Lock.of_table(parse_table(table, text, _KEYS_OF_ONE, name), text, name) for table in tables]


def format_locks(locks: Sequence[Lock]) -> str:
    """Return the content of a file with these locks: one at its top level, or several in tables `[[image]]`."""
    head = f"# What an image was when it was locked; `provision --locked` gets exactly that.\nformat = {_FORMAT}\n"
    if len(locks) == 1:
        return head + locks[0].to_toml()
    return head + "".join("\n[[image]]\n" + lock.to_toml("image.") for lock in locks)


def _names(locks: Sequence[Lock]) -> str:
    return ", ".join(printable(lock.reference) for lock in locks)


def check_writable(path: Path, trust: TrustedDirectories = NOBODY) -> None:
    """Raise MachineError if a lock can't be written to `path`. It is called before the image is known."""
    with _writing_errors(path):
        check_replaceable(path, trust)


@contextmanager
def _writing_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing a lock into a MachineError."""
    try:
        with machine_errors(f"write the lock {printable(str(path))}"):
            yield
    except MachineError as error:
        error.hint = "name a file in an existing directory that you may write to: --lock FILE"
        raise


def _quote(value: object) -> str:
    return json.dumps(str(value))


def _sort(table: Mapping[Platform, Any]) -> list[tuple[Platform, Any]]:
    return sorted(table.items(), key=lambda item: str(item[0]))


def _format(value: Any) -> int:
    if value != _FORMAT or isinstance(value, bool):
        raise ValueError(f"another format than {_FORMAT}: it is of another version of provision")
    return int(value)


def _tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise ValueError("not a list of tables, [[image]]")
    return value


def _reference(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return str(parse_source(value))


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


def _files(value: Any) -> dict[Platform, tuple[str, int]]:
    return _by_platform(value, _file)


def _file(value: Any) -> tuple[str, int]:
    path, size = (value.get("path"), value.get("size")) if isinstance(value, dict) else (None, None)
    if not isinstance(path, str) or isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError("not a table of path and size")
    try:
        return checked_path(path, "it"), size
    except MalformedImage as error:
        raise ValueError(error.message) from None


KEYS = {
    "format": Key(_format, f"the form of the file, {_FORMAT}"),
    "reference": Key(_reference, "the image that was asked for, in full"),
    "locked": Key(_moment, "the time when it was looked up"),
    "index": Key(_digest, "the digest of the index that the reference named"),
    "manifests": Key(_manifests, "table of platform to the digest of a manifest"),
    "files": Key(_files, "table of platform to path and size of a file on a server"),
    "layers": Key(_layers, "table of platform to the digests of its layers"),
}
"""All keys of a lock file with one image."""
_KEYS_OF_ONE = {name: key for name, key in KEYS.items() if name != "format"}
