"""Reads a file that can be sought in, as `tar.Archive` reads a stream, but skips content without reading it."""

from __future__ import annotations

import os

from provisioner.archives.stream import unreadable

_AHEAD = 1 << 14
"""Bytes that are read at a time: headers of small members are often near each other."""


class SeekableReader:
    """Reads the file of a descriptor from its start, by pread(2): the descriptor's own offset is left alone.

    Raises MalformedImage where the file ends early, and OSError.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._end = os.fstat(file).st_size
        self._chunk = b""
        self._chunk_at = 0
        self.position = 0
        """The offset of what is read next."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer at the end of the file."""
        at = self.position - self._chunk_at
        if not 0 <= at <= at + size <= len(self._chunk):
            self._chunk = os.pread(self._file, max(size, _AHEAD), self.position)
            self._chunk_at, at = self.position, 0
        data = self._chunk[at : at + size]
        self.position += len(data)
        return data

    def read_piece(self, limit: int) -> memoryview:
        """Return the next bytes: at least one, at most `limit`. Raises MalformedImage at the end."""
        data = self.read(min(limit, _AHEAD))
        if not data:
            raise unreadable("it ends in the middle of a file")
        return memoryview(data)

    def skip(self, size: int) -> None:
        """Go on behind the next `size` bytes. Raises MalformedImage where the file has fewer."""
        self.position += size
        if self.position > self._end:
            raise unreadable("it ends in the middle of a file")

    def drain(self) -> bool:
        """Return False: what is behind the end of an archive in a file isn't read, as other tools don't either."""
        return False
