"""A blob that is written to a file in memory only when somebody waits for it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator


class SpooledBlob:
    """The chunks of a blob, each of which is written to a file when it is waited for."""

    def __init__(self, chunks: Iterable[bytes], start: int = 0) -> None:
        self.start = start
        self._chunks = iter(chunks)
        self._available = 0
        self.position = 0
        self._file = os.memfd_create("blob")
        os.pwrite(self._file, b"#" * start, 0)
        self.close = weakref.finalize(self, os.close, self._file)
        """Closes the file, at the latest when the object is gone."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob from its start."""
        offset = 0
        while (available := self.wait(offset)) > offset:
            yield os.pread(self._file, available - offset, self.start + offset)
            offset = available

    def wait(self, offset: int) -> int:
        """Write chunks to the file until there are more than `offset` bytes, and return how many there are."""
        while self._available <= offset and (chunk := next(self._chunks, None)) is not None:
            self._available += os.pwrite(self._file, chunk, self.start + self._available)
        return self._available

    def report_read(self, position: int) -> None:
        """Remember how far a worker has read."""
        self.position = position

    def open_file(self) -> int:
        """Return a new descriptor of the file."""
        return os.dup(self._file)
