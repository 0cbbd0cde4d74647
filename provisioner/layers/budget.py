"""The most that an image may take on the disk, counted by all processes that write of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from copy import copy

from provisioner.errors import MachineError

ENTRY_SIZE = 4096
"""What an entry, or a directory that is made for one, counts as beside its content: an inode and a place in a block."""


class Budget:
    """At most `most` bytes: all archives, holes of sparse files as if they were filled, and ENTRY_SIZE for each entry.

    What is spent is in memory that forked processes share, in `parts`: no two processes may count in the same.
    """

    def __init__(self, most: int = 2**63 - 1, parts: int = 1) -> None:
        self._most = most
        self._spent = memoryview(mmap.mmap(-1, 8 * parts)).cast("Q")
        self._part = 0

    def part(self, number: int) -> Budget:
        """The same, for another process to count in."""
        other = copy(self)
        other._part = number
        return other

    def spend(self, size: int) -> None:
        """Count what is about to be written. Raises MachineError for too much."""
        if size <= self._most:
            self._spent[self._part] += size
            if sum(self._spent) <= self._most:
                return
        raise too_large(self._most)

    def counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on `chunks` of an archive as far as there is room for them."""
        for chunk in chunks:
            self.spend(len(chunk))
            yield chunk


def too_large(most: int) -> MachineError:
    """The error for an image that would take more than `most` bytes."""
    hint = "free some space for it; if you trust it, allow more: --max-size 100G"
    return MachineError(f"the image takes more than the {most:,} bytes that it may", hint)
