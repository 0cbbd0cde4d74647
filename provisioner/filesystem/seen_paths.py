"""A set of paths that takes a few bytes for each, for layers with a million of them."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from secrets import token_bytes


class SeenPaths:
    """A set of paths that supports `add` and `in`, but not iteration.

    Stored are 64 bits of a keyed hash of each path. The key is random, so that nobody can construct two paths with the
    same hash. The table uses open addressing and is at most half full.
    """

    def __init__(self) -> None:
        self._key = token_bytes(16)
        self.clear()

    def clear(self) -> None:
        """Remove all paths."""
        self._table = array("Q", bytes(8 << 6))
        self._count = 0

    def __contains__(self, path: bytes) -> bool:
        """Return whether a path was added."""
        value = self._hash(path)
        return self._table[self._slot(value)] == value

    def add(self, path: bytes) -> bool:
        """Add a path, and return whether it is new."""
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
        """Return the hash of a path; never 0, which marks an empty slot."""
        return int.from_bytes(blake2b(path, digest_size=8, key=self._key).digest(), "little") or 1

    def _slot(self, value: int) -> int:
        """Return the slot that holds a hash, or the empty one where it belongs."""
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
