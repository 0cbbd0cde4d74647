"""The content of regular files: reflinks, copies that keep holes, the data between these."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

_FICLONE = getattr(fcntl, "FICLONE", 0x40049409)
_CHUNK = 1 << 18
"""Bytes that are copied or compared at a time."""


def try_reflink(original: int, copy: int) -> bool:
    """Let `copy` share the blocks of `original` (ioctl_ficlone(2)); return whether the file system can do that."""
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError:  # a real error of the disk shows again when the file is copied
        return False
    return True


def copy_data(original: int, copy: int) -> int:
    """Copy a file to a new one, with its holes, and return the number of bytes that were written. Raises OSError."""
    os.ftruncate(copy, os.fstat(original).st_size)
    count = 0
    for offset, size in data_ranges(original):
        chunk = os.pread(original, size, offset)
        while chunk:
            written = os.pwrite(copy, chunk, offset)
            chunk, offset, count = chunk[written:], offset + written, count + written
    return count


def data_ranges(file: int, chunk: int = _CHUNK) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the data between a file's holes (lseek(2)), at most `chunk` bytes at a time."""
    size = os.fstat(file).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # a hole up to the end
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield from ((offset, min(chunk, end - offset)) for offset in range(start, end, chunk))
