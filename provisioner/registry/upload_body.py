"""The body of a request that uploads a part of a blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from provisioner.image.stored_blob import StoredBlob

_CHUNK_SIZE = 1 << 16
"""Bytes that are sent at a time."""


class UploadBody:
    """A part of a blob as the body of a request. `progress` is called with the size of each chunk that is sent."""

    def __init__(self, blob: StoredBlob, start: int, count: int, progress: Callable[[int], None]) -> None:
        self._blob = blob
        self._start, self._count = start, count
        self._at = start
        self._progress = progress

    def again(self) -> UploadBody:
        """Return a new body with the same content, for another request."""
        return UploadBody(self._blob, self._start, self._count, self._progress)

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes."""
        return iter(lambda: self.read(_CHUNK_SIZE), b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, or none at the end. Raises MalformedImage, OSError."""
        data = self._blob.read(self._at, min(max(size, _CHUNK_SIZE), self._start + self._count - self._at))
        self._at += len(data)
        self._progress(len(data))
        return data
