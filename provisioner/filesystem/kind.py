"""The kinds of files that an image can hold."""

from __future__ import annotations

import stat
from enum import Enum


class Kind(Enum):
    """The kind of a file; the value is the keyword `type` of mtree(5), but for hard links."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "link"
    HARDLINK = "hardlink"
    FIFO = "fifo"
    CHARACTER = "char"
    BLOCK = "block"

    __hash__ = object.__hash__  # that of Enum is written in Python, and much slower


FILE_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
"""The file type bits of `st_mode` (inode(7)) by kind. A hard link has those of the file that it names."""

DEVICES = (Kind.CHARACTER, Kind.BLOCK)
"""The kinds of devices."""

KINDS = {file_type: kind for kind, file_type in FILE_TYPES.items()}
"""The kind by `stat.S_IFMT(st_mode)`; there is none for sockets."""
