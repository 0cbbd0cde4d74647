"""The content of regular files: reflinks, copies that keep holes, the data between these."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from provisioner.filesystem.descriptors import NEW_READABLE_FILE, closing_descriptor

_FICLONE = getattr(fcntl, "FICLONE", 0x40049409)
_BLOCK = 1 << 16
_CHUNK = 1 << 18
"""Bytes that are copied or compared at a time."""


def try_reflink(original: int, copy: int) -> bool:
    """Let `copy` share the blocks of `original` (ioctl_ficlone(2)); return whether the file system can do that."""
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError:  # a real error of the disk shows again when the file is copied
        return False
    return True


def can_reflink(directory: int) -> bool:
    """Return whether files in an open directory can share their blocks, found by trying. Nothing is left in it."""
    names = [f".reflink-{os.urandom(8).hex()}" for _ in range(2)]
    with ExitStack() as stack, suppress(OSError):  # on a full disk nothing can be found out
        files = []
        for name in names:
            files.append(
                stack.enter_context(closing_descriptor(os.open(name, NEW_READABLE_FILE, 0o600, dir_fd=directory)))
            )
            os.unlink(name, dir_fd=directory)
        os.write(files[0], bytes(_BLOCK))
        return try_reflink(*files)
    return False


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
