"""A blob that is in a file of this machine, or in a part of one, and is read in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from provisioner.errors import machine_errors
from provisioner.image.digest import CHUNK


class FileBlob:
    """`size` bytes from `start` of an open file. Who reads it verifies it.

    `progress` is called with the number of bytes that are read for the first time.
    """

    def __init__(
        self, file: int, start: int, size: int, what: str, progress: Callable[[int], None] = lambda count: None
    ) -> None:
        self.start = start
        self._file = file
        self._size = size
        self._what = what
        self._progress = progress
        self._counted = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob from its start; fewer bytes where the file was made shorter. Raises MachineError."""
        offset = 0
        while offset < self._size:
            with machine_errors(f"read {self._what}"):
                chunk = os.pread(self._file, min(CHUNK, self._size - offset), self.start + offset)
            if not chunk:
                return
            offset += len(chunk)
            self._count(offset)
            yield chunk

    def wait(self, offset: int) -> int:
        """Return the size: all bytes are there."""
        self._count(self._size)
        return self._size

    def open_file(self) -> int:
        """Return a new descriptor of the file."""
        return os.dup(self._file)

    def _count(self, offset: int) -> None:
        if offset > self._counted:
            self._progress(offset - self._counted)
            self._counted = offset
