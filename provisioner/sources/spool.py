"""Archives of images that can't be read in place, from a pipe or compressed: their members go to files."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

from provisioner.archives.stream import StreamReader
from provisioner.archives.tar import Archive
from provisioner.errors import error_context
from provisioner.filesystem.kind import Kind
from provisioner.image.digest import Digest
from provisioner.sources.members import Index, Member, have_same_content, refuse_holes
from provisioner.store.blobs import BlobCache
from provisioner.store.partial import PartialFile, write_all
from provisioner.terminal.escaping import printable

_FIRST = 1
"""Where the first member begins in the file of most of them: so none has the place of one with a file of its own."""
_MAX_BLOBS = 200
"""The most members that become blobs of the cache, since each has an open file until then."""
_PADDING = 16 << 20
"""The most bytes behind the end of an archive that are read, so that the program that writes them isn't killed."""


class SpooledMembers:
    """The members of an archive that arrives in order, in files on the file system of the cache.

    A context manager. Most are in one file without a name, which is gone at the end, whatever the end. The blobs of an
    OCI image layout, which are those of a registry, have files of their own and become blobs of the cache at the end,
    where no error has occurred. Nothing else sees them before, so that runs can't delete what others read.
    """

    def __init__(self, cache: BlobCache) -> None:
        self._cache = cache
        self._index = Index(lambda copies: have_same_content(self, copies))
        self.is_whole = False
        """Whether the archive has its end."""
        self._stack = ExitStack()
        self._spool: io.FileIO | None = None
        self._blobs: dict[Member, tuple[PartialFile, Digest | None]] = {}
        """Members with files of their own, and their digests; None for those that don't become blobs."""

    def read(self, chunks: Iterable[bytes]) -> None:
        """Write the members of the archive in `chunks` to files as they come, and read the padding behind its end.

        Raises MalformedImage, MachineError where there is no room, and what iterating over `chunks` raises.
        """
        archive, room = Archive((), _PaddedReader(chunks)), _Room.of(self._cache)
        self._spool = spool = self._stack.enter_context(self._cache.unnamed_file())
        end = _FIRST
        with self._cache.errors():
            write_all(spool, bytes(_FIRST))
        for entry in archive:
            refuse_holes(entry)
            name = self._index.name_of(entry)
            is_file = entry.kind is Kind.FILE and name is not None
            if is_file:
                with error_context(printable(entry.path[:300])):
                    room.spend(entry.size)
            if is_file and name not in self._index.files and (digest := self._digest_in(name or "")):
                self._index.add(entry, 0, entry.size)
                self._write_blob(Member(name or "", 0, entry.size), digest, archive.content())
                continue
            self._index.add(entry, end, entry.size)
            if is_file:
                end += entry.size
                for piece in archive.content():
                    with self._cache.errors():
                        write_all(spool, piece)
        self.is_whole = archive.is_ended

    def names(self) -> Collection[str]:
        """Return the names of all files."""
        return self._index.files.keys()

    def find(self, name: str) -> Member | None:
        """Return a file, through links within the archive; None where there is none. Raises MalformedImage."""
        return self._index.find(name)

    def open(self, member: Member) -> int:
        """Return a new descriptor of the file that has a member. Raises MachineError."""
        partial, _ = self._blobs.get(member, (None, None))
        file = partial.file if partial else self._spool
        assert file is not None
        with self._cache.errors():
            return os.dup(file.fileno())

    def __enter__(self) -> SpooledMembers:
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what doesn't stay. Raises MachineError."""
        with self._stack:
            while self._blobs and kind is None and self._cache.lasts:
                _, (partial, digest) = self._blobs.popitem()
                if digest is not None:
                    with self._cache.errors():
                        self._cache.complete(partial, digest)

    def _digest_in(self, name: str) -> Digest | None:
        """Return the digest that the name of a member states for it; None for those that don't become blobs."""
        match = re.fullmatch("blobs/sha256/([0-9a-f]{64})", name)
        return Digest("sha256", match[1]) if match and len(self._blobs) < _MAX_BLOBS else None

    def _write_blob(self, member: Member, digest: Digest, pieces: Iterable[memoryview]) -> None:
        """Write a member that has this digest by its name. Where it hasn't, it doesn't become a blob."""
        with self._cache.errors():
            partial = self._stack.enter_context(self._cache.own_partial(digest))
        self._blobs[member] = partial, None
        hasher = digest.hasher()
        for piece in pieces:
            hasher.update(piece)
            with self._cache.errors():
                write_all(partial.file, piece)
        if hasher.hexdigest() == digest.hex:
            self._blobs[member] = partial, digest


@dataclass
class _Room:
    """The space that an archive may take in the cache: nine tenths of what is free before."""

    cache: BlobCache
    limit: int
    spent: int = 0

    @classmethod
    def of(cls, cache: BlobCache) -> _Room:
        return cls(cache, cache.free_space().default_limit)

    def spend(self, size: int) -> None:
        """Count `size` bytes that are about to be written. Raises MachineError where there is no room for them."""
        self.spent += size
        if self.spent > self.limit:
            raise self.cache.files.no_room("it", self.spent, self.limit)


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
