"""Finds out what a file is by its content: its compression, and the members of the archive in it; never by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from enum import Enum

from provisioner.archives.compression import decompress
from provisioner.archives.tar import Archive, Entry
from provisioner.errors import MachineError, MalformedImage, UsageError
from provisioner.sources.file_start import PEEKED
from provisioner.sources.members import normal_name

_ENTRIES = 64
"""The most members that are looked at in them."""
_HEX = "[0-9a-f]{64}"
_IMAGE_NAMES = re.compile(
    rf"oci-layout|index\.json|manifest\.json|blobs(/.*)?|(sha256:)?{_HEX}(\.(json|tar|tar\.gz))?"
    rf"|{_HEX}/(layer\.tar|json|VERSION)"
)
"""The names of members of an archive of images, as its first ones have them."""
_OTHER_IMAGE_NAMES = re.compile(r"repositories|[^/]+\.(json|tar|tar\.gz|tgz)|[^/]+/(layer\.tar|VERSION)")
"""Further ones: names of layers and configs are free, so that other archives may have such members too."""
_ROOT_NAMES = re.compile(
    r"(\.dockerenv|metadata\.yaml|templates|(.*/)?(bin|boot|dev|etc|home|lib|lib32|lib64|media|mnt|opt|proc|root|rootfs"
    r"|run|sbin|srv|sys|tmp|usr|var|installed-rootfs))(/.*)?"
)
"""The names of members of a root file system, at its top or some levels below."""

_ROOT_MARKS = {"bin", "etc", "usr", "var"}
"""The directories that a root file system is known by."""
_FORMAT_NAMES = frozenset(("oci-layout", "index.json", "manifest.json", "repositories", "version"))
"""The names by which the format of an archive of images is recognised."""
_LONGEST_FORMAT_NAME = 20
"""The most bytes of such a name as it may stand in an archive."""


class Format(Enum):
    """A format of files that hold images. The value is its name for users."""

    OCI = "an OCI image layout"
    DOCKER = "a docker-archive"
    OLD_DOCKER = "an archive of Docker before 1.10"
    SKOPEO = "a directory of skopeo"


class Guess(Enum):
    """What a file is most likely, by the first members of the archive in it."""

    IMAGES = "an archive of images"
    PERHAPS_IMAGES = "an archive with files such as one of images has"
    ROOT = "a root file system"
    NOTHING = "anything else"


def formats_of(names: Collection[str]) -> tuple[Format, ...]:
    """Return the formats that an archive or a directory with members of these names has, the best first.

    `names` are relative and normal, without `./` in front.
    """
    found: list[Format] = []
    if "index.json" in names and "oci-layout" in names:
        found.append(Format.OCI)
    if "manifest.json" in names:
        found.append(Format.SKOPEO if "version" in names and not found else Format.DOCKER)
    elif "repositories" in names and not found:
        found.append(Format.OLD_DOCKER)
    return tuple(found)


def has_root_file_system(names: Iterable[str]) -> bool:
    """Return whether an archive with members of these names also has the directories of a root file system."""
    return len(_ROOT_MARKS & {name.partition("/")[0] for name in names}) > 1


def guess_content(head: bytes) -> Guess:
    """Return what a file is most likely, by its first bytes: the first name that stands for one kind alone decides."""
    guess = Guess.NOTHING
    for name in _first_names(head):
        if _IMAGE_NAMES.fullmatch(name):
            return Guess.IMAGES
        if _ROOT_NAMES.fullmatch(name):
            return Guess.ROOT
        if _OTHER_IMAGE_NAMES.fullmatch(name):
            guess = Guess.PERHAPS_IMAGES
    return guess


def format_name(path: bytes) -> str:
    """Return the name of a member if the format of an archive of images is recognised by it; nothing for others."""
    if len(path) > _LONGEST_FORMAT_NAME:
        return ""
    name = normal_name(path)
    return name if name in _FORMAT_NAMES else ""


def marker_names(archive: Iterable[Entry]) -> set[str]:
    """Return the names in an archive by which `formats_of` and `has_root_file_system` recognise what it is."""
    found: set[str] = set()
    for entry in archive:
        if name := format_name(entry.path):
            found.add(name)
        elif len(found & _ROOT_MARKS) < len(_ROOT_MARKS):
            found |= _ROOT_MARKS & {(normal_name(entry.path) or "").partition("/")[0]}
    return found


def ambiguous_archive(shown: str, kind: Format, hint: str) -> UsageError:
    """Return the error for an archive of images that has a root file system, too."""
    return UsageError(f"{shown} is both {kind.value} and a root file system", hint)


def _first_names(head: bytes) -> Iterator[str]:
    """Yield the names of the first members in what a file, compressed or not, begins with."""
    with suppress(MalformedImage, MachineError):
        archive = Archive(_limited(decompress(iter((head,)), "")))
        for number, entry in enumerate(archive):
            name = normal_name(entry.path)
            if name not in (None, "."):
                yield name or ""
            if number == _ENTRIES:
                return


def _limited(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks until they have PEEKED bytes."""
    left = PEEKED
    for chunk in chunks:
        yield chunk
        left -= len(chunk)
        if left < 0:
            return


def truncated_archive() -> MalformedImage:
    """Return the error for an archive without the empty blocks that end one: all writers of archives write them."""
    hint = "copy it again; if it is whole all the same: (cat FILE; head -c 1024 /dev/zero) | provision - DIR"
    return MalformedImage("the archive lacks the empty blocks that end one, so it was cut off", hint)


def unknown_format(shown: str) -> UsageError:
    """Return the error for a file or directory that is no image. `shown` is its name for messages."""
    return UsageError(
        f"{shown} is no image: neither an OCI image layout, nor a docker-archive, nor a root file system",
        "say what it is: docker-archive:FILE, oci-archive:FILE, oci:DIR, dir:DIR or rootfs:FILE",
    )
