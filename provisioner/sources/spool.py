"""Archives of images that can't be read in place, from a pipe or compressed: their members go into the cache."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable

from provisioner.archives.stream import StreamReader
from provisioner.archives.tar import Archive
from provisioner.errors import HINTS, MachineError, error_context
from provisioner.filesystem.kind import Kind
from provisioner.image.digest import Digest
from provisioner.sizes import size_text
from provisioner.sources.members import Index, Member
from provisioner.store.blobs import BlobCache
from provisioner.terminal.escaping import printable

_PADDING = 16 << 20
"""The most bytes behind the end of an archive that are read, so that the program that writes them isn't killed."""


class SpooledMembers:
    """The members of an archive that arrives in order: each is a blob in the cache by its SHA-256.

    `close` deletes those that the cache had not before, but for the ones that `keep` has named.
    """

    def __init__(self, cache: BlobCache) -> None:
        self._cache = cache
        self._index = Index()
        self._digests: dict[str, Digest] = {}
        self._new: set[Digest] = set()

    def read(self, chunks: Iterable[bytes]) -> None:
        """Write the members of the archive in `chunks` to the cache as they come, and read the padding behind its end.

        Raises MalformedImage, MachineError where there is no room, and what iterating over `chunks` raises.
        """
        archive = Archive((), _PaddedReader(chunks))
        for entry in archive:
            self._index.add(entry, 0, entry.size)
            name = self._index.name_of(entry)
            if entry.kind is not Kind.FILE or name is None:
                continue
            with error_context(printable(name)):
                self._check_room(entry.size)
            digest, is_new = self._cache.add(archive.content())
            if is_new:
                self._new.add(digest)
            self._digests[name] = digest

    def names(self) -> Collection[str]:
        """Return the names of all files."""
        return self._index.files.keys()

    def find(self, name: str) -> Member | None:
        """Return a file, through links within the archive; None where there is none. Raises MalformedImage."""
        return self._index.find(name)

    def open(self, member: Member) -> int:
        """Return a new descriptor of the file in the cache. Raises MachineError."""
        with self._cache.errors(), self._cache.open(self._digests[member.name]) as file:
            return os.dup(file.fileno())

    def keep(self, digests: Iterable[Digest]) -> None:
        """Leave these blobs in the cache: they are those of a registry too."""
        self._new.difference_update(digests)

    def close(self) -> None:
        """Delete the other members. Raises MachineError."""
        with self._cache.errors():
            while self._new:
                self._cache.delete(self._new.pop())

    def _check_room(self, size: int) -> None:
        """Raise MachineError where a member of `size` bytes would leave less than a tenth of the free space."""
        free = self._cache.free_bytes()
        if size > free * 9 // 10:
            path = printable(str(self._cache.files.path))
            what = f"it takes {size_text(size)}, and {size_text(free)} are free in the cache {path}"
            raise MachineError(what, f"{HINTS[errno.ENOSPC]}, or name another cache in PROVISION_CACHE_DIR")


class _PaddedReader(StreamReader):
    """Reads a bounded number of bytes behind the end of an archive, whatever they are, as tar(1) does."""

    def drain(self) -> bool:
        left = _PADDING
        for chunk in self._chunks:
            left -= len(chunk)
            if left < 0:
                break
        return False
