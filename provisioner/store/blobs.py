"""The blob cache: verified content in files named by digest, shared between processes."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.locks import lock, unlock
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.terminal.escaping import printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


class BlobCache:
    """A directory of blobs: `sha256/HEX` for whole and verified ones, `partial/HEX` for unfinished downloads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: Digest) -> Path:
        """Return the path of a whole blob, whether it exists or not."""
        return self._directory / digest.algorithm / digest.hex

    def resumable_bytes(self, descriptor: Descriptor) -> int:
        """Return how many bytes of a blob the next run won't have to download, verified or not."""
        for path in (self.path(descriptor.digest), self._partial(descriptor.digest)):
            with suppress(OSError):
                return min(path.stat().st_size, descriptor.size)
        return 0

    def _partial(self, digest: Digest) -> Path:
        return self._directory / "partial" / digest.hex

    @contextmanager
    def partial(self, digest: Digest) -> Iterator[io.FileIO]:
        """Open the file that a blob is downloaded to and lock it, waiting for a process that has the lock.

        The lock belongs to the open file, so it ends with the process. The bytes stay there however the process ends,
        and the next one continues the download.
        """
        path = self._partial(digest)
        with self.errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path(digest).parent.mkdir(exist_ok=True)
            file = _locked(path)
        with file:
            try:
                yield file
            finally:
                with self.errors():
                    if _same_file(file, path) and not path.stat().st_size:
                        path.unlink()
                    # Readers share the open file, and with it the lock.
                    unlock(file)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an OSError into a MachineError that names the cache and says how to use another directory."""
        try:
            with machine_errors(f"use the cache {printable(str(self._directory))}"):
                yield
        except MachineError as error:
            is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
            other = "name another directory in PROVISION_CACHE_DIR"
            error.hint = f"free some space there, or {other}" if is_full else f"{other}, or use none: --no-cache"
            raise


class TemporaryBlobCache(BlobCache):
    """A cache that is deleted at the end of the run."""

    def resumable_bytes(self, descriptor: Descriptor) -> int:
        """Return 0: the next run won't find anything."""
        return 0


def _locked(path: Path) -> io.FileIO:
    """Return `path`, opened or created, with a lock on it; wait for the process that has the lock."""
    while True:
        file = io.FileIO(path, "a+")
        try:
            lock(file)
            if _same_file(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that had the lock has renamed or deleted the file


def _same_file(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
