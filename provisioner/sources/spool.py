"""Archives of images that can't be read in place, from a pipe or compressed: their members go into the cache."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from provisioner.archives.stream import StreamReader
from provisioner.archives.tar import Archive
from provisioner.errors import HINTS, MachineError, error_context
from provisioner.filesystem.kind import Kind
from provisioner.image.digest import Digest
from provisioner.sizes import size_text
from provisioner.sources.members import Index, Member
from provisioner.store.blobs import BlobCache
from provisioner.store.partial import write_all
from provisioner.terminal.escaping import printable

_PADDING = 16 << 20
"""The most bytes behind the end of an archive that are read, so that the program that writes them isn't killed."""


class SpooledMembers:
    """The members of an archive that arrives in order: each is a blob in the cache by its SHA-256.

    A context manager: at its end, those that the cache had not before are deleted. The blobs of an OCI image layout,
    which are those of a registry, stay there where no error has occurred.
    """

    def __init__(self, cache: BlobCache) -> None:
        self._cache = cache
        self._index = Index(lambda copies: len(self._digests[copies[0].name]) == 1)
        self._digests: dict[str, set[Digest]] = {}
        self._new: set[Digest] = set()

    def read(self, chunks: Iterable[bytes]) -> None:
        """Write the members of the archive in `chunks` to the cache as they come, and read the padding behind its end.

        Raises MalformedImage, MachineError where there is no room, and what iterating over `chunks` raises.
        """
        self._cache.delete_abandoned()
        archive, room = Archive((), _PaddedReader(chunks)), _Room.of(self._cache)
        for entry in archive:
            self._index.add(entry, 0, entry.size)
            name = self._index.name_of(entry)
            if entry.kind is not Kind.FILE or name is None:
                continue
            with error_context(printable(name)):
                room.spend(entry.size)
            digest, is_new = self._cache.add(archive.content())
            if is_new:
                self._new.add(digest)
            self._digests.setdefault(name, set()).add(digest)

    def names(self) -> Collection[str]:
        """Return the names of all files."""
        return self._index.files.keys()

    def find(self, name: str) -> Member | None:
        """Return a file, through links within the archive; None where there is none. Raises MalformedImage."""
        return self._index.find(name)

    def open(self, member: Member) -> int:
        """Return a new descriptor of the file in the cache. Raises MachineError."""
        with self._cache.errors(), self._cache.open(min(self._digests[member.name])) as file:
            return os.dup(file.fileno())

    def __enter__(self) -> SpooledMembers:
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what doesn't stay. Raises MachineError."""
        if kind is None:
            self._new -= {
                digest
                for name, digests in self._digests.items()
                for digest in digests
                if name == f"blobs/sha256/{digest.hex}"
            }
        with self._cache.errors():
            while self._new:
                self._cache.delete(self._new.pop())


@dataclass
class _Room:
    """The space that an archive may take in the cache: nine tenths of what is free before."""

    cache: BlobCache
    free: int
    spent: int = 0

    @classmethod
    def of(cls, cache: BlobCache) -> _Room:
        return cls(cache, cache.free_bytes())

    def spend(self, size: int) -> None:
        """Count `size` bytes that are about to be written. Raises MachineError where there is no room for them."""
        self.spent += size
        if self.spent > self.free * 9 // 10:
            path = printable(str(self.cache.files.path))
            what = f"it takes {size_text(self.spent)} so far, and {size_text(self.free)} are free in the cache {path}"
            raise MachineError(what, f"{HINTS[errno.ENOSPC]}, or name another cache in PROVISION_CACHE_DIR")


@contextmanager
def spool_file(cache: BlobCache, chunks: Iterable[bytes]) -> Iterator[io.FileIO]:
    """Yield an open file with these chunks on the file system of the cache. It has no name there, so that none stays.

    Raises MachineError where there is no room, and what iterating over `chunks` raises.
    """
    room = _Room.of(cache)
    with cache.unnamed_file() as file:
        for chunk in chunks:
            room.spend(len(chunk))
            with cache.errors():
                write_all(file, chunk)
        with cache.errors():
            file.seek(0)
        yield file


class _PaddedReader(StreamReader):
    """Reads a bounded number of bytes behind the end of an archive, whatever they are, as tar(1) does."""

    def drain(self) -> bool:
        left = _PADDING
        for chunk in self._chunks:
            left -= len(chunk)
            if left < 0:
                break
        return False
