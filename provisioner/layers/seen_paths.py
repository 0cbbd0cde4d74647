"""A set of paths in a few bytes each, for layers with a million of them."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from secrets import token_bytes


class SeenPaths:
    """Paths that can be added and asked for, not listed.

    Kept of each are 64 bits of a hash, whose key nobody knows who could make two paths with the same. They are in a
    table with open addressing, at most half full.
    """

    def __init__(self) -> None:
        self._key = token_bytes(16)
        self.clear()

    def clear(self) -> None:
        """Take all away."""
        self._table = array("Q", bytes(8 << 6))
        self._count = 0

    def __contains__(self, path: bytes) -> bool:
        """Whether a path was added."""
        value = self._hash(path)
        return self._table[self._slot(value)] == value

    def add(self, path: bytes) -> bool:
        """Add a path; whether it is new."""
        value = self._hash(path)
        slot = self._slot(value)
        if self._table[slot]:
            return False
        self._table[slot] = value
        self._count += 1
        if 2 * self._count > len(self._table):
            self._grow()
        return True

    def _hash(self, path: bytes) -> int:
        """Never 0, which is an empty slot."""
        return int.from_bytes(blake2b(path, digest_size=8, key=self._key).digest(), "little") or 1

    def _slot(self, value: int) -> int:
        """Where a hash is, or would be."""
        table, mask = self._table, len(self._table) - 1
        slot = value & mask
        while (found := table[slot]) and found != value:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        values = self._table
        self._table = array("Q", bytes(2 * 8 * len(values)))
        for value in filter(None, values):
            self._table[self._slot(value)] = value
