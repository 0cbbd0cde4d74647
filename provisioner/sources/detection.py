"""Finds out what a file is by its content: its compression, and the members of the archive in it; never by its name."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from provisioner.archives.compression import compression_of, decompress
from provisioner.archives.fields import BLOCK, has_right_checksum
from provisioner.archives.foreign import HEAD
from provisioner.archives.seekable import SeekableReader
from provisioner.archives.tar import Archive, Entry
from provisioner.errors import MachineError, MalformedImage, UsageError
from provisioner.image.digest import CHUNK
from provisioner.sources.members import normal_name

_PEEKED = 1 << 20
"""The bytes at the beginning of a file, and of the archive in it, that decide what it is."""
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
    """Yield chunks until they have _PEEKED bytes."""
    left = _PEEKED
    for chunk in chunks:
        yield chunk
        left -= len(chunk)
        if left < 0:
            return


@dataclass(frozen=True)
class FileStart:
    """An open file or pipe, and what it begins with."""

    file: io.FileIO
    data: bytes
    """Up to _PEEKED bytes."""
    is_seekable: bool
    """Whether it can be read more than once, and at any place."""

    @property
    def compression(self) -> str:
        """Return `gzip`, `zstd`, `bzip2` or `xz`; nothing where it isn't compressed, or otherwise."""
        return compression_of(self.data)

    @property
    def is_tar(self) -> bool:
        """Return whether it is a tar archive that isn't compressed."""
        with suppress(MalformedImage):
            return len(self.data) >= BLOCK and has_right_checksum(self.data[:BLOCK])
        return False

    @property
    def may_be_archive(self) -> bool:
        """Return whether it begins as a tar archive, compressed or not, or with the zeros that end an empty one."""
        is_empty = len(self.data) < _PEEKED and not self.data[:BLOCK].strip(b"\0")
        return self.is_tar or bool(self.compression) or is_empty

    @property
    def decompressed_head(self) -> bytes:
        """Return the beginning of the compressed content; nothing where it isn't compressed or is damaged."""
        if not self.compression:
            return b""
        head = b""
        with suppress(MalformedImage, MachineError):
            for piece in decompress(iter((self.data,)), ""):
                head += piece
                if len(head) >= HEAD:
                    break
        return head

    @property
    def size(self) -> int | None:
        """Return its size in bytes; None for a pipe."""
        return os.fstat(self.file.fileno()).st_size if self.is_seekable else None

    def chunks(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield all of it, and call `progress` with the length of each chunk. A pipe yields it once. Raises OSError."""
        progress(len(self.data))
        yield self.data
        offset = len(self.data)
        while data := self._read(offset):
            offset += len(data)
            progress(len(data))
            yield data

    def archive(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield all of it, decompressed. Raises OSError, MalformedImage and MachineError."""
        return decompress(self.chunks(progress), "", "the archive")

    def members(self) -> Archive:
        """Return the archive in a file that can be read more than once. Raises as `archive` does."""
        if self.is_tar:
            return Archive((), SeekableReader(self.file.fileno()))
        return Archive(self.archive(lambda count: None))

    def _read(self, offset: int) -> bytes:
        number = self.file.fileno()
        return os.pread(number, CHUNK, offset) if self.is_seekable else os.read(number, CHUNK)


def peek(file: io.FileIO) -> FileStart:
    """Return an open file or pipe with what it begins with. Raises OSError."""
    number = file.fileno()
    # Of a file that somebody has read a part of, only the rest counts.
    if stat.S_ISREG(os.fstat(number).st_mode) and os.lseek(number, 0, os.SEEK_CUR) == 0:
        return FileStart(file, os.pread(number, _PEEKED, 0), True)
    data = b""
    while len(data) < _PEEKED and (piece := os.read(number, _PEEKED - len(data))):
        data += piece
    return FileStart(file, data, False)


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
