"""The kinds of files that an archive can hold."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "link"
    HARDLINK = "hardlink"
    FIFO = "fifo"
    CHARACTER = "char"
    BLOCK = "block"
