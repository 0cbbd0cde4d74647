"""Reads from a stream of chunks in whatever sizes the parser asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from provisioner.errors import MalformedImage

_PADDING = 64 << 20
"""The most bytes of zeros behind the end of an archive; one that is larger may have as many as it has bytes itself."""


class Reader(Protocol):
    """What a parser reads from."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer at the end."""

    def read_piece(self, limit: int) -> memoryview:
        """Return the next bytes without a copy: at least one, at most `limit`. Raises MalformedImage at the end."""

    def skip(self, size: int) -> None:
        """Go on behind the next `size` bytes. Raises MalformedImage at the end."""

    def drain(self) -> bool:
        """Read to the end, and return whether anything but zeros was left. Raises MalformedImage for too many zeros."""


class StreamReader:
    """Reads the bytes of an iterable of chunks, however they are divided."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._data = b""
        """The current chunk."""
        self._chunk = memoryview(self._data)
        self._at = 0
        self._count = 0
        """The bytes of all chunks so far."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer at the end of the stream."""
        at = self._at
        end = at + size
        if end <= len(self._data):
            self._at = end
            return self._data[at:end]
        parts = [self._data[at:]]
        size -= len(parts[0])
        self._at = len(self._data)
        while size and self._next_chunk():
            parts.append(self._data[:size])
            self._at = len(parts[-1])
            size -= self._at
        return b"".join(parts)

    def read_piece(self, limit: int) -> memoryview:
        """Return the next bytes without a copy: at least one, at most `limit`. Raises MalformedImage at the end."""
        if self._at >= len(self._chunk) and not self._next_chunk():
            raise unreadable("it ends in the middle of a file")
        at = self._at
        self._at = min(len(self._chunk), at + limit)
        return self._chunk[at : self._at]

    def skip(self, size: int) -> None:
        """Go on behind the next `size` bytes. Raises MalformedImage at the end of the stream."""
        end = self._at + size
        if end <= len(self._data):
            self._at = end
            return
        while size:
            size -= len(self.read_piece(size))

    def drain(self) -> bool:
        """Read to the end of the stream, and return whether anything but zeros was left.

        Raises MalformedImage for too many zeros: compressed, terabytes of them are a small file.
        """
        rest, self._at = self._data[self._at :], len(self._data)
        if rest.strip(b"\0"):
            return True
        most = max(_PADDING, self._count)
        left = most - len(rest)
        for chunk in self._chunks:
            left -= len(chunk)
            if left < 0:
                raise unreadable(f"behind its end there are more than {most} bytes of zeros")
            if chunk.strip(b"\0"):
                return True
        return False

    def _next_chunk(self) -> bool:
        """Go to the next chunk that isn't empty, and return whether there is one."""
        for chunk in self._chunks:
            if chunk:
                self._data, self._chunk, self._at = chunk, memoryview(chunk), 0
                self._count += len(chunk)
                return True
        return False


def unreadable(why: str) -> MalformedImage:
    """Return the error for an archive that is damaged or contradicts itself."""
    return MalformedImage(f"the archive can't be read: {why}")
