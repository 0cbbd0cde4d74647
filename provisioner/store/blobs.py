"""The blob cache: verified content in files named by digest, shared between processes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.locks import try_lock, unlock
from provisioner.filesystem.space import FreeSpace, free_space
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.partial import PARTIAL, PartialFile, is_abandoned, lock_partial, own_partial


class BlobSource(Protocol):
    """Where blobs are downloaded from. Classes that can't do better inherit `report_corrupt` from here."""

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` on, in order, not yet verified.

        An empty chunk may come at any time. It gives the reader the chance to stop before the source tries again.
        """

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Report that a blob, downloaded from its start, didn't match its digest.

        Return whether another download may bring the right bytes. By default it can't.
        """
        return False


@dataclass(frozen=True)
class BlobInMemory(BlobSource):
    """A blob that has been downloaded already, as a source."""

    data: bytes

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `start` on."""
        yield self.data[start:]


class BlobCache:
    """A directory of blobs: `sha256/HEX` for whole and verified ones, `partial/HEX` for unfinished downloads."""

    lasts = True
    """Whether its files stay for later runs."""

    def __init__(self, directory: Path, report: Callable[[str], None] = lambda text: None) -> None:
        self.files = CacheDirectory(directory)
        self._report = report
        """Called with a message while another process is waited for."""

    def path(self, digest: Digest) -> Path:
        """Return the path of a whole blob, whether it exists or not."""
        return self.files.path / digest.algorithm / digest.hex

    def open(self, digest: Digest) -> io.FileIO:
        """Open a whole blob, not yet verified. Raises OSError; FileNotFoundError where there is none."""
        return io.FileIO(self.files.open(digest.algorithm, digest.hex))

    def has(self, digest: Digest) -> bool:
        """Return whether the cache has the whole blob, not yet verified."""
        try:
            self.open(digest).close()
        except OSError:
            return False
        return True

    def delete(self, digest: Digest) -> None:
        """Delete a whole blob, if there is one. Raises OSError."""
        with suppress(FileNotFoundError):
            self.files.delete(digest.algorithm, digest.hex)

    def resumable_bytes(self, descriptor: Descriptor) -> int:
        """Return how many bytes of a blob the next run won't have to download, verified or not."""
        digest = descriptor.digest
        for folder in (digest.algorithm, PARTIAL):
            with suppress(OSError):
                return min(self.files.stat(folder, digest.hex).st_size, descriptor.size)
        return 0

    @contextmanager
    def partial(self, digest: Digest) -> Iterator[PartialFile]:
        """Open the file that a blob is downloaded to and lock it, waiting for a process that has the lock.

        The lock belongs to the open file, so it ends with the process. The bytes stay there however the process ends,
        and the next one continues the download.
        """
        with self.errors():
            partial = lock_partial(self.files, digest, self._report)
        with partial.file:
            try:
                yield partial
            finally:
                with self.errors():
                    number = partial.file.fileno()
                    is_empty = not os.fstat(number).st_size
                    if (is_empty or partial.is_own) and self.files.is_same(number, PARTIAL, partial.name):
                        self.files.delete(PARTIAL, partial.name)
                    # Readers share the open file, and with it the lock.
                    unlock(number)

    def complete(self, partial: PartialFile, digest: Digest) -> None:
        """Move a partial file, which has been verified, to the place of whole blobs. Raises OSError."""
        self.files.rename(PARTIAL, partial.name, digest.algorithm, digest.hex)

    def discard(self, partial: PartialFile) -> None:
        """Delete the name of a partial file; its content stays for those that have it open. Raises OSError."""
        self.files.delete(PARTIAL, partial.name)

    @contextmanager
    def own_partial(self, digest: Digest) -> Iterator[PartialFile]:
        """Yield a new, locked file for a blob, of an unpredictable name; it is deleted unless it is completed.

        Raises OSError.
        """
        partial = own_partial(self.files, digest)
        with partial.file:
            try:
                yield partial
            finally:
                with suppress(FileNotFoundError):
                    self.discard(partial)

    def delete_abandoned(self) -> None:
        """Delete the files that killed processes have left and no other one looks for. Raises MachineError."""
        with self.errors():
            for name, state in self.files.files(PARTIAL):
                if not is_abandoned(PARTIAL, name, state.st_mtime):
                    continue
                with suppress(FileNotFoundError), closing_descriptor(self.files.open(PARTIAL, name)) as file:
                    if try_lock(file):
                        self.files.delete(PARTIAL, name)

    @contextmanager
    def unnamed_file(self) -> Iterator[io.FileIO]:
        """Yield a new file to write and to read, without a name: it is gone when it is closed. Raises MachineError."""
        with self.errors():
            partial = own_partial(self.files)
            self.discard(partial)
        with partial.file:
            yield partial.file

    def free_space(self) -> FreeSpace:
        """Return the free space of the file system that the cache is on. Raises MachineError."""
        with self.errors():
            return free_space(self.files.folder(PARTIAL, create=True))

    def errors(self) -> AbstractContextManager[None]:
        """Turn an OSError into a MachineError that names the cache and says how to use another directory."""
        return self.files.errors()


class TemporaryBlobCache(BlobCache):
    """A cache that is deleted at the end of the run."""

    lasts = False

    def resumable_bytes(self, descriptor: Descriptor) -> int:
        """Return 0: the next run won't find anything."""
        return 0
