"""Blobs for tests of the cache: a source that is scripted, and what files the cache has."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.store.blobs import BlobCache

DATA = bytes(range(256)) * 4096
CHUNKS = [DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000)]


def described(data: bytes = DATA, size: int | None = None) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(data), len(data) if size is None else size)


class ScriptedSource:
    """Serves chunks and counts how often it is asked; `gates` are waited for before each chunk.

    `again` is how often it answers that the blob may be right the next time.
    """

    def __init__(
        self, *chunks: bytes, gates: list[threading.Event] | None = None, error: Exception | None = None, again: int = 0
    ) -> None:
        self.chunks = chunks
        self.gates = gates or []
        self.error = error
        self.again = again
        self.asked = 0
        self.starts: list[int] = []

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        self.asked += 1
        self.starts.append(start)
        for number, chunk in enumerate(self.chunks):
            if number < len(self.gates):
                assert self.gates[number].wait(60)
            if skipped := min(start, len(chunk)):
                start -= skipped
                chunk = chunk[skipped:]
            yield chunk
        if self.error:
            raise self.error

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        self.again -= 1
        return self.again >= 0


def files(cache: BlobCache) -> list[str]:
    """All files of the cache, relative to it."""
    root = cache.path(Digest.of(b"")).parent.parent
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


PARTIAL = f"partial/{Digest.of(DATA).hex}"


def whole(data: bytes = DATA) -> str:
    return f"sha256/{hashlib.sha256(data).hexdigest()}"
