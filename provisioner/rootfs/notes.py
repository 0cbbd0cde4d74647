"""What an image says of files and this file system can't hold: owners, modes, devices and attributes, by inode."""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

from provisioner.rootfs.archive import Kind

_PAGE_BITS = 6


class Said(NamedTuple):
    """What the image says of one file. `device` is what an empty file stands in for: kind, major and minor."""

    uid: int
    gid: int
    mode: int
    device: tuple[Kind, int, int] | None
    xattrs: tuple[tuple[bytes, bytes], ...]


class Notes:
    """What is said of the files of a tree, where it isn't what the disk says.

    By inode, so that hard links share it and nothing has to be done where names go. The inodes of a new tree are
    neighbours: they are kept in pages, in some ten bytes each, and what is said of many is kept once.
    """

    def __init__(self) -> None:
        self.stale = False
        """Whether files were taken away, so that the inode of a new one may be one that something is said of."""
        self._pages: dict[int, array[int]] = {}
        self._said: list[Said | None] = [None]
        self._numbers: dict[Said | None, int] = {None: 0}

    def set(self, inode: int, said: Said | None) -> None:
        """Note what is said of an inode; None where the disk says it."""
        number = self._numbers.get(said)
        if number is None:
            number = self._numbers[said] = len(self._said)
            self._said.append(said)
        page = self._pages.get(inode >> _PAGE_BITS)
        if page is None:
            if not number:
                return
            page = self._pages[inode >> _PAGE_BITS] = array("I", bytes(4 << _PAGE_BITS))
        page[inode & (1 << _PAGE_BITS) - 1] = number

    def get(self, inode: int) -> Said | None:
        """What is said of an inode."""
        page = self._pages.get(inode >> _PAGE_BITS)
        return None if page is None else self._said[page[inode & (1 << _PAGE_BITS) - 1]]

    def forget(self, file: int) -> None:
        """Let the disk say it for a file, open, that the image has no entry for."""
        self.set(os.fstat(file).st_ino, None)
