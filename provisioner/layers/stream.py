"""The bytes of an archive, cut where the parser asks for it and not where they happen to come."""

from __future__ import annotations

from collections.abc import Iterable

from provisioner.errors import MalformedImage


class StreamReader:
    """A stream of chunks that is cut as it is asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = memoryview(b"")
        self._at = 0

    def exactly(self, size: int) -> bytes:
        """`size` bytes, fewer at the end."""
        at = self._at
        if at + size <= len(self._chunk):
            self._at = at + size
            return bytes(self._chunk[at : at + size])
        data = bytes(self._chunk[at:])
        self._chunk, self._at = memoryview(b""), 0
        while len(data) < size and self._more():
            take = min(size - len(data), len(self._chunk))
            data += self._chunk[:take]
            self._at = take
        return data

    def piece(self, most: int) -> memoryview:
        """At least one byte, at most `most`, without a copy. Raises MalformedImage at the end."""
        if self._at >= len(self._chunk) and not self._more():
            raise unreadable("it ends in the middle of a file")
        at = self._at
        self._at = min(len(self._chunk), at + most)
        return self._chunk[at : self._at]

    def any_left(self) -> bool:
        """Whether there is something but zeros up to the end."""
        rest, self._chunk = self._chunk[self._at :], memoryview(b"")
        return bool(bytes(rest).strip(b"\0")) or any(bytes(chunk).strip(b"\0") for chunk in self._chunks)

    def _more(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._chunk, self._at = memoryview(chunk), 0
                return True
        return False


def unreadable(why: str) -> MalformedImage:
    """The error for an archive that is damaged, or that contradicts itself."""
    return MalformedImage(f"the archive can't be read: {why}")
