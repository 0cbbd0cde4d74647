"""A blob that is in an open file, or in a part of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from provisioner.errors import MalformedImage
from provisioner.image.digest import CHUNK, verified_chunks
from provisioner.image.manifest import Descriptor


@dataclass(frozen=True)
class StoredBlob:
    """A blob whose content can be read from any place, as often as needed."""

    descriptor: Descriptor
    file: int
    """The descriptor of the file, whose own offset is left alone."""
    start: int = 0
    """Where the blob begins in the file, in bytes."""

    @property
    def size(self) -> int:
        """The bytes of the blob."""
        return self.descriptor.size

    def read(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes from `offset` on; nothing at the end. Raises MalformedImage, OSError."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        data = os.pread(self.file, count, self.start + offset)
        if not data:
            raise MalformedImage(f"blob {self.descriptor.digest.short} ends after {offset} of {self.size} bytes")
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises as `read` does."""
        offset = 0
        while data := self.read(offset, CHUNK):
            offset += len(data)
            yield data

    def verify(self) -> None:
        """Read all of it. Raises MalformedImage where it doesn't match its digest, and OSError."""
        what = f"blob {self.descriptor.digest.short}"
        for _ in verified_chunks(self.chunks(), self.descriptor.digest, self.size, what):
            pass
