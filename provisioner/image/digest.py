"""Content digests (OCI image-spec, descriptor.md), and the verification of bytes by them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from provisioner.errors import MalformedImage

CHUNK = 1 << 18
"""The number of bytes that are read, hashed and written at a time."""

NOT_VERIFIED = "not verified"
"""How far content is verified whose digest nobody states."""

_LENGTHS = {"sha256": 64, "sha512": 128}


class Hasher(Protocol):
    """A hash object of `hashlib`."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...  # noqa: D102

    def hexdigest(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, order=True)
class Digest:
    """An algorithm and a lower-case hexadecimal value, such as `sha256:e3b0c4…`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that `text` spells. Raises MalformedImage for other algorithms than sha256 and sha512."""
        match = re.fullmatch(r"(sha256|sha512):([0-9a-f]+)", text)
        if match and len(match[2]) == _LENGTHS[match[1]]:
            return cls(match[1], match[2])
        raise MalformedImage(f"{text[:160]!r} is not a sha256 or sha512 digest")

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the sha256 digest of `data`."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def hasher(self) -> Hasher:
        """Return a new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        """Return `algorithm:hex`, as registries write it."""
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """Return the first twelve digits, for people."""
        return self.hex[:12]


class Mismatch(MalformedImage):
    """A stream doesn't have the digest or the size of its descriptor."""


def verify(data: bytes, digest: Digest, size: int | None, what: str) -> None:
    """Raise MalformedImage unless `data` has this digest and size in bytes (None: unknown); `what` names it."""
    if size is not None and len(data) != size:
        raise MalformedImage(f"{what} has {len(data)} bytes, {size} were announced")
    check = digest.hasher()
    check.update(data)
    if check.hexdigest() != digest.hex:
        raise MalformedImage(f"{what} does not match its digest {digest}")


def verified_chunks(chunks: Iterable[bytes], digest: Digest, size: int | None, what: str) -> Iterator[bytes]:
    """Yield `chunks` and hash them. They are verified when the iterator ends without an error.

    Raises Mismatch as soon as there are more than `size` bytes (None: unknown), and at the end if there are fewer, or
    if they don't have the digest. `what` names the content in errors.
    """
    hasher, count = digest.hasher(), 0
    for chunk in chunks:
        count += len(chunk)
        if size is not None and count > size:
            raise Mismatch(f"{what} has more than the {size} bytes that were announced")
        hasher.update(chunk)
        yield chunk
    if size is not None and count < size:
        raise Mismatch(f"{what} ends after {count} of {size} bytes")
    if hasher.hexdigest() != digest.hex:
        raise Mismatch(f"{what} does not match its digest {digest}")
