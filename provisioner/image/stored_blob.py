"""A blob in an open file, or in a part of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from provisioner.errors import MalformedImage
from provisioner.image.digest import CHUNK, verified_chunks
from provisioner.image.manifest import Descriptor


@dataclass(frozen=True)
class StoredBlob:
    """A blob whose content can be read from any offset, repeatedly."""

    descriptor: Descriptor
    file: int
    """The descriptor of the file. The file's offset is neither used nor changed."""
    start: int = 0
    """The offset of the blob in the file, in bytes."""

    @property
    def size(self) -> int:
        """The size of the blob in bytes."""
        return self.descriptor.size

    def read(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes from `offset` on; none at the end. Raises MalformedImage, OSError."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        data = os.pread(self.file, count, self.start + offset)
        if not data:
            raise MalformedImage(f"blob {self.descriptor.digest.short} ends after {offset} of {self.size} bytes")
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises MalformedImage, OSError."""
        offset = 0
        while data := self.read(offset, CHUNK):
            offset += len(data)
            yield data

    def verify(self) -> None:
        """Read the content and verify it. Raises MalformedImage if it doesn't match its digest, and OSError."""
        what = f"blob {self.descriptor.digest.short}"
        for _ in verified_chunks(self.chunks(), self.descriptor.digest, self.size, what):
            pass
