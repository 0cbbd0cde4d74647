"""An open file or pipe, and what it begins with: enough to find out what it is."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from provisioner.archives.compression import compression_of, decompress
from provisioner.archives.fields import BLOCK, has_right_checksum
from provisioner.archives.foreign import HEAD
from provisioner.archives.seekable import SeekableReader
from provisioner.archives.tar import Archive
from provisioner.errors import MachineError, MalformedImage
from provisioner.image.digest import CHUNK

PEEKED = 1 << 20
"""The bytes at the beginning of a file, and of the archive in it, that decide what it is."""


@dataclass(frozen=True)
class FileStart:
    """An open file or pipe, and what it begins with."""

    file: io.FileIO
    data: bytes
    """Up to PEEKED bytes."""
    is_seekable: bool
    """Whether it can be read more than once, and at any place."""

    @property
    def compression(self) -> str:
        """Return `gzip`, `zstd`, `bzip2` or `xz`; nothing where it isn't compressed, or otherwise."""
        return compression_of(self.data)

    @property
    def is_tar(self) -> bool:
        """Return whether it is a tar archive that isn't compressed."""
        with suppress(MalformedImage):
            return len(self.data) >= BLOCK and has_right_checksum(self.data[:BLOCK])
        return False

    @property
    def may_be_archive(self) -> bool:
        """Return whether it begins as a tar archive, compressed or not, or with the zeros that end an empty one."""
        is_empty = len(self.data) < PEEKED and not self.data[:BLOCK].strip(b"\0")
        return self.is_tar or bool(self.compression) or is_empty

    @property
    def decompressed_head(self) -> bytes:
        """Return the beginning of the compressed content; nothing where it isn't compressed or is damaged."""
        if not self.compression:
            return b""
        head = b""
        with suppress(MalformedImage, MachineError):
            for piece in decompress(iter((self.data,)), ""):
                head += piece
                if len(head) >= HEAD:
                    break
        return head

    @property
    def size(self) -> int | None:
        """Return its size in bytes; None for a pipe."""
        return os.fstat(self.file.fileno()).st_size if self.is_seekable else None

    def chunks(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield all of it, and call `progress` with the length of each chunk. A pipe yields it once. Raises OSError."""
        progress(len(self.data))
        yield self.data
        offset = len(self.data)
        while data := self._read(offset):
            offset += len(data)
            progress(len(data))
            yield data

    def archive(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield all of it, decompressed. Raises OSError, MalformedImage and MachineError."""
        return decompress(self.chunks(progress), "", "the archive")

    def members(self) -> Archive:
        """Return the archive in a file that can be read more than once. Raises as `archive` does."""
        if self.is_tar:
            return Archive((), SeekableReader(self.file.fileno()))
        return Archive(self.archive(lambda count: None))

    def _read(self, offset: int) -> bytes:
        number = self.file.fileno()
        return os.pread(number, CHUNK, offset) if self.is_seekable else os.read(number, CHUNK)


def peek(file: io.FileIO) -> FileStart:
    """Return an open file or pipe with what it begins with. Raises OSError."""
    number = file.fileno()
    # Of a file that somebody has read a part of, only the rest counts.
    if stat.S_ISREG(os.fstat(number).st_mode) and os.lseek(number, 0, os.SEEK_CUR) == 0:
        return FileStart(file, os.pread(number, PEEKED, 0), True)
    data = b""
    while len(data) < PEEKED and (piece := os.read(number, PEEKED - len(data))):
        data += piece
    return FileStart(file, data, False)
