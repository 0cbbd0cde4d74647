"""The names of sources of images, as users write them: those of containers-transports(5), paths, URLs and `-`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import UsageError
from provisioner.image.reference import Reference
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class RegistryName:
    """`docker://REFERENCE`, or a reference alone."""

    reference: Reference

    def __str__(self) -> str:
        """Return the full reference."""
        return str(self.reference)


@dataclass(frozen=True)
class DockerArchive:
    """`docker-archive:PATH[:REF|:@N]`: a tar file as `docker save` writes it."""

    path: Path
    choice: str = ""
    """The image in it: a tag, or `@N` for the image number N from 0; empty if there is only one."""

    def __str__(self) -> str:
        """Return the word with an absolute path."""
        return _with_choice("docker-archive", self.path, self.choice)


@dataclass(frozen=True)
class OciLayout:
    """`oci:DIR[:REF|:@N]`: a directory in the OCI image layout."""

    path: Path
    choice: str = ""
    """The image in it: a name in its index, or `@N` for the entry number N from 0; empty if there is only one."""

    def __str__(self) -> str:
        """Return the word with an absolute path."""
        return _with_choice("oci", self.path, self.choice)


@dataclass(frozen=True)
class OciArchive:
    """`oci-archive:PATH[:REF|:@N]`: an OCI image layout in a tar file, which may be compressed."""

    path: Path
    choice: str = ""
    """The image in it, as in OciLayout."""

    def __str__(self) -> str:
        """Return the word with an absolute path."""
        return _with_choice("oci-archive", self.path, self.choice)


@dataclass(frozen=True)
class SkopeoDirectory:
    """`dir:DIR`: a directory as `skopeo copy … dir:DIR` writes it."""

    path: Path

    def __str__(self) -> str:
        """Return the word with an absolute path."""
        return f"dir:{self.path}"


@dataclass(frozen=True)
class Rootfs:
    """`rootfs:PATH` or `rootfs:URL`: a root file system in an archive."""

    location: str
    """An absolute path, or a URL."""

    def __str__(self) -> str:
        """Return the word."""
        return f"rootfs:{self.location}"


@dataclass(frozen=True)
class Lxc:
    """`lxc:DISTRIBUTION/RELEASE[/VARIANT]`: an image of an LXC image server."""

    distribution: str
    release: str
    variant: str = "default"

    def __str__(self) -> str:
        """Return the word in full."""
        return f"lxc:{self.distribution}/{self.release}/{self.variant}"


@dataclass(frozen=True)
class FileName:
    """A path alone: a file or a directory, whose type is recognised by its content."""

    path: Path

    def __str__(self) -> str:
        """Return the absolute path."""
        return str(self.path)


@dataclass(frozen=True)
class Url:
    """`http://…` or `https://…`: a file, whose type is recognised by its content."""

    url: str

    def __str__(self) -> str:
        """Return the URL."""
        return self.url


@dataclass(frozen=True)
class StandardInput:
    """`-`: an archive on standard input."""

    def __str__(self) -> str:
        """Return `-`."""
        return "-"


SourceName = (
    RegistryName
    | DockerArchive
    | OciLayout
    | OciArchive
    | SkopeoDirectory
    | Rootfs
    | Lxc
    | FileName
    | Url
    | StandardInput
)

WORDS = (
    "docker://IMAGE, docker-archive:FILE[:REF], oci:DIR[:REF], oci-archive:FILE[:REF], dir:DIR, rootfs:FILE, "
    "lxc:DISTRIBUTION/RELEASE, ./FILE, https://… or -"
)
"""The forms of a source, for messages."""

_ELSEWHERE = {
    "containers-storage": "save it first: podman save --format oci-archive -o image.tar IMAGE, then ./image.tar",
    "docker-daemon": "save it first: docker save -o image.tar IMAGE, then ./image.tar",
    "ostree": "copy it first: skopeo copy ostree:… oci-archive:image.tar, then ./image.tar",
    "sif": "copy it first: skopeo copy sif:… oci-archive:image.tar, then ./image.tar",
    "tarball": "name the archive as rootfs:FILE",
    "atomic": "copy it first: skopeo copy atomic:… oci-archive:image.tar, then ./image.tar",
}
"""Transports of containers-transports(5) that only other tools can read, each with the hint for users."""


def parse_source(text: str) -> SourceName:
    """Return the source in a user's text. Relative paths become absolute. Raises UsageError."""
    if text == "-":
        return StandardInput()
    if is_path(text):
        return FileName(_path(text, text))
    if re.match(r"https?://", text, re.IGNORECASE):
        return Url(text)
    transport, colon, rest = text.partition(":")
    if colon and transport in _ELSEWHERE and not _is_tag_or_port(transport, rest):
        raise UsageError(f"{_shown(text)} can only be read by the tools of {transport}", _ELSEWHERE[transport])
    if colon and transport in _PARSERS:
        return _PARSERS[transport](text, rest)
    return RegistryName(Reference.parse(text))


def is_path(text: str) -> bool:
    """Return whether a word is a path, not the name of an image: `./x`, `/x`, `../x`, `~/x`, `.`, `..` and `~`."""
    return text in (".", "..", "~") or text.startswith(("/", "./", "../", "~/"))


def _is_tag_or_port(transport: str, rest: str) -> bool:
    """Return whether a word such as `sif:1.0` is an image of Docker Hub with a tag, or a host with a port."""
    return transport in ("sif", "atomic", "ostree", "tarball") and bool(re.fullmatch(r"[\w][\w.-]*", rest))


def _docker_archive(text: str, rest: str) -> DockerArchive:
    path, choice = _path_and_choice(text, rest)
    return DockerArchive(path, choice)


def _oci_layout(text: str, rest: str) -> OciLayout:
    path, choice = _path_and_choice(text, rest)
    return OciLayout(path, choice)


def _oci_archive(text: str, rest: str) -> OciArchive:
    path, choice = _path_and_choice(text, rest)
    return OciArchive(path, choice)


def _skopeo_directory(text: str, rest: str) -> SkopeoDirectory:
    return SkopeoDirectory(_path(text, rest))


def _rootfs(text: str, rest: str) -> Rootfs:
    if re.match(r"https?://", rest, re.IGNORECASE):
        return Rootfs(rest)
    return Rootfs(str(_path(text, rest)))


def _lxc(text: str, rest: str) -> Lxc:
    words = rest.split("/")
    if len(words) not in (2, 3) or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", word) for word in words):
        hint = "it looks like lxc:debian/trixie; provision tags lxc:debian lists what there is"
        raise UsageError(f"{_shown(text)} is not DISTRIBUTION/RELEASE or DISTRIBUTION/RELEASE/VARIANT", hint)
    return Lxc(*words)


_PARSERS: dict[str, Callable[[str, str], SourceName]] = {
    "docker-archive": _docker_archive,
    "oci": _oci_layout,
    "oci-archive": _oci_archive,
    "dir": _skopeo_directory,
    "rootfs": _rootfs,
    "lxc": _lxc,
}


def _path_and_choice(text: str, rest: str) -> tuple[Path, str]:
    """Return the path, which ends at the first colon as in containers-transports(5), and the rest after the colon."""
    path, colon, choice = rest.partition(":")
    if colon and not choice:
        raise UsageError(f"{_shown(text)} ends with a colon", "name an image after the colon, or leave it out")
    if choice.startswith("@") and not re.fullmatch(r"@[0-9]{1,6}", choice):
        raise UsageError(f"{_shown(text)}: {_shown(choice)} is not @ and a number", "write :@0 for the first image")
    return _path(text, path), choice


def _path(text: str, path: str) -> Path:
    """Return an absolute path. `~/` is expanded here, since shells don't expand it after a colon."""
    if not path:
        raise UsageError(f"{_shown(text)} lacks the path of a file or directory", f"a source is {WORDS}")
    if path == "-":
        return Path("/dev/stdin")
    if "\0" in path:
        raise UsageError(f"{_shown(text)} contains a NUL", "name a file or directory")
    try:
        return Path(os.path.abspath(os.path.expanduser(path)))
    except OSError as error:  # the current directory is gone
        raise UsageError(f"{_shown(text)}: {os.strerror(error.errno or 0)}", "name it by its absolute path") from None


def _with_choice(transport: str, path: Path, choice: str) -> str:
    return f"{transport}:{path}" + (f":{choice}" if choice else "")


def _shown(text: str) -> str:
    return repr(printable(text[:300]))
