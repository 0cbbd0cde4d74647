"""The limit for the size of an unpacked image, counted by all processes that write files of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from copy import copy

from provisioner.errors import MachineError
from provisioner.sizes import counted
from provisioner.terminal.transfer import Unpacked

ENTRY_SIZE = 4096
"""The bytes that an entry, or a directory created for one, counts for besides its content: an inode and a name."""


class Budget:
    """A limit of `max_size` bytes for all archives, with holes of sparse files, and ENTRY_SIZE for each entry.

    Bytes and entries are counted apart, since people are shown what was unpacked. The counters are in memory that
    forked processes share if the kernel allows it, one for each of `parts`: no two processes may use the same.
    """

    def __init__(self, max_size: int = 2**63 - 1, parts: int = 1) -> None:
        self._max_size = max_size
        self._part = 0
        self.is_shared = True
        """Whether forked processes see each other's counters; no more than one may count where they don't."""
        try:
            counters = memoryview(mmap.mmap(-1, 16 * parts)).cast("q")
        except OSError:  # some containers and phones refuse shared memory
            self.is_shared = False
            counters = memoryview(bytearray(16 * parts)).cast("q")
        self._spent, self._entries = counters[:parts], counters[parts:]

    def part(self, number: int) -> Budget:
        """Return this budget for another process, which counts in the part `number`."""
        other = copy(self)
        other._part = number
        return other

    def unpacked(self) -> Unpacked:
        """Return what all parts have counted."""
        entries = sum(self._entries)
        return Unpacked(sum(self._spent) - entries * ENTRY_SIZE, entries)

    def reset(self) -> None:
        """Forget what was counted in this part, since it isn't there any more."""
        self._spent[self._part] = self._entries[self._part] = 0

    def spend(self, size: int, entries: int = 0) -> None:
        """Count `size` bytes and `entries` that are about to be written. Raises MachineError above the limit.

        Both are negative for what another part has counted, but isn't there any more.
        """
        spent = self._spent[self._part] + size + entries * ENTRY_SIZE
        if spent < 2**63:
            self._spent[self._part] = spent
            self._entries[self._part] += entries
            if sum(self._spent) <= self._max_size:
                return
        raise too_large(self._max_size)

    def count_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `chunks` of an archive and count each before. Raises MachineError where the limit is exceeded."""
        for chunk in chunks:
            self.spend(len(chunk))
            yield chunk


def too_large(max_size: int) -> MachineError:
    """Return the error for an image that takes more than `max_size` bytes."""
    hint = "if you trust the image, allow more, as --max-size 100G; else free some space"
    return MachineError(
        f"the image takes more than the {counted(max_size, 'byte that is', 'bytes that are')} allowed", hint
    )
