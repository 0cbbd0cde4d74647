"""Image references, by the grammar of the distribution-spec and of Docker's `reference` package."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass, replace

from provisioner.errors import MalformedImage, UsageError
from provisioner.image.digest import Digest

DOCKER_HUB = "docker.io"
_HUB_ALIASES = {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TRANSPORTS = ("containers-storage", "dir", "docker-archive", "docker-daemon", "lxc", "oci", "oci-archive", "rootfs")
"""Transports that name images which are not in a registry (see source_name.py)."""
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True)
class Reference:
    """The full name of an image: `registry/repository[:tag][@digest]`. It has a tag, a digest, or both."""

    registry: str  # host[:port]; docker.io for Docker Hub
    repository: str  # with library/ for Docker Hub's official images
    tag: str | None  # latest if neither tag nor digest is written; ignored if there is a digest
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference in a user's text. Raises UsageError that names the wrong part."""
        if text in (".", "..") or text.startswith(("/", "./", "../")):
            raise _reference_error(text, "this is a path", "the source comes first, then DIR")
        rest = text.removeprefix("docker://")
        if "://" in rest:
            raise _reference_error(text, "a reference has no URL scheme", "leave out the part up to ://")
        if rest == text and ":" in rest and rest.partition(":")[0] in _TRANSPORTS:
            hint = f"an image of this name on Docker Hub is docker://{text[:300]}"
            raise _reference_error(text, "this names a file or a directory, not a registry", hint)
        rest, at, digest_text = rest.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        registry, path = _split_registry(text, rest)
        path, colon, tag = path.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _reference_error(text, f"the tag {tag!r} is not 1 to 128 letters, digits, '_', '.' and '-'")
        if registry == DOCKER_HUB and path and "/" not in path:
            path = f"library/{path}"
        _check_path(text, path)
        return cls(registry, path, (tag or None) if colon or digest else "latest", digest)

    @property
    def selector(self) -> str:
        """Return the digest if there is one, else the tag: by it the manifest is requested."""
        return str(self.digest) if self.digest else self.tag or "latest"

    @property
    def familiar(self) -> str:
        """Return the shortest text that `parse` expands to this reference: without `docker.io/` and `library/`."""
        for prefix in (f"{DOCKER_HUB}/library/", f"{DOCKER_HUB}/"):
            short = str(self).removeprefix(prefix)
            with suppress(UsageError):
                if short != str(self) and Reference.parse(short) == self:
                    return short
        return str(self)

    @property
    def name(self) -> str:
        """Return `registry/repository`, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def at(self, digest: Digest) -> Reference:
        """Return the same reference with this digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        """Return the full name."""
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def is_tag(text: str) -> bool:
    """Return whether `text` is a valid tag, by the grammar of the distribution-spec."""
    return bool(_TAG.fullmatch(text))


def is_loopback(registry: str) -> bool:
    """Return whether `registry` (host or host:port) is loopback, by its name (RFC 6761) or its address."""
    host, _ = _host_and_port(registry)
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _host_and_port(registry: str) -> tuple[str, str]:
    """Return the host, with the brackets of an IPv6 address, and the port, which may be empty."""
    host, colon, port = registry.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (registry, "")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address in `host`, or None for a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def parse_registry(text: str) -> str:
    """Return `host[:port]` normalised; `docker.io` for all names of Docker Hub. Raises UsageError."""
    if fault := _registry_fault(text):
        hint = "a registry looks like ghcr.io or localhost:5000"
        raise UsageError(f"{text[:300]!r} is not a registry: {fault}", hint)
    if text.lower() in _HUB_ALIASES:
        return DOCKER_HUB
    # A word without a dot and a colon is a host only because of its capitals, which are therefore kept.
    return text.lower() if set(".:") & set(text) else text


def _split_registry(text: str, rest: str) -> tuple[str, str]:
    """Return registry and path.

    The first component is a registry if it has a dot, a colon or capitals, or is localhost.
    """
    first, slash, path = rest.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        return DOCKER_HUB, rest
    if fault := _registry_fault(first):
        raise _reference_error(text, fault)
    return parse_registry(first), path


def _registry_fault(registry: str) -> str:
    """Return what is wrong with a registry's name; empty for a valid one."""
    host, port = _host_and_port(registry)
    if not _HOST.fullmatch(registry) or (host.startswith("[") and not _address(host)):
        return f"{registry!r} is not a host name with an optional port"
    if port and not 0 < int(port) < 65536:
        return f"the port {port} is not between 1 and 65535"
    return ""


def _check_path(text: str, path: str) -> None:
    if not path:
        raise _reference_error(text, "the name of the image is missing")
    if len(path) > 255:
        raise _reference_error(text, f"the name has {len(path)} characters, 255 is the most")
    for component in path.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        if not component:
            raise _reference_error(text, "there is an empty part between slashes")
        version = re.fullmatch("[^=<>~!]+([=~<>]=|=)[^=<>~!]+", component)
        if version and path.endswith(component):  # as in pip and apt
            raise _reference_error(
                text, f"{component!r} has {version[1]!r}", f"write it {text.replace(version[1], ':')!r}"
            )
        if component != component.lower():
            written = text.replace(path.removeprefix("library/"), path.removeprefix("library/").lower())
            raise _reference_error(text, f"{component!r} has capital letters", f"write it {written!r}")
        raise _reference_error(text, f"{component!r} is not lower-case letters and digits, joined by '.', '_' or '-'")


def _parse_digest(text: str, digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except MalformedImage as error:
        raise _reference_error(text, error.message) from None


def _reference_error(
    text: str, why: str, hint: str = "a reference looks like ubuntu:24.04 or ghcr.io/owner/image:tag"
) -> UsageError:
    return UsageError(f"{text[:300]!r} is not an image reference: {why}", hint)
