"""Integers by inode, for trees of millions of files."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_PAGE_BITS = 6


class InodeTable:
    """An integer for each inode, `default` where none was set.

    The inodes of a new tree are neighbours: the integers are stored in pages, so that each takes some ten bytes.
    `typecode` is the type of the integers as `array` names it.
    """

    def __init__(self, typecode: str, default: int) -> None:
        self._default = default
        self._empty_page = array(typecode, [default]) * (1 << _PAGE_BITS)
        self._pages: dict[int, array[int]] = {}

    def __getitem__(self, inode: int) -> int:
        """Return the integer of an inode."""
        page = self._pages.get(inode >> _PAGE_BITS)
        return self._default if page is None else page[inode & (1 << _PAGE_BITS) - 1]

    def __setitem__(self, inode: int, number: int) -> None:
        """Set the integer of an inode."""
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            if number == self._default:
                return
            page = self._pages[inode >> _PAGE_BITS] = self._empty_page[:]
        page[inode & (1 << _PAGE_BITS) - 1] = number

    def update(self, other: InodeTable, translation: Sequence[int] | None = None) -> None:
        """Set the integers that were set in `other`, each to that of `translation` at its index where there is one."""
        for page_number, page in other._pages.items():
            first = page_number << _PAGE_BITS
            for index, number in enumerate(page):
                if number != other._default:
                    self[first + index] = number if translation is None else translation[number]
