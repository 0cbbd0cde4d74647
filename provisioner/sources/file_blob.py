"""A blob that is in a file of this machine, or in a part of one: read in place, and verified at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from provisioner.errors import ProvisionError, machine_errors
from provisioner.image.digest import CHUNK, Digest, Mismatch
from provisioner.threads import BackgroundThread


class FileBlob:
    """`size` bytes from `start` of an open file. `what` names it for messages.

    `progress` is called with the number of bytes that are read for the first time. With a `digest`, readers wait at the
    end until `verify` has compared it; without, who reads the blob verifies it.
    """

    def __init__(
        self,
        file: int,
        start: int,
        size: int,
        what: str,
        progress: Callable[[int], None] = lambda count: None,
        digest: Digest | None = None,
    ) -> None:
        self.start = start
        """Where the blob begins in the file."""
        self._file = file
        self._size = size
        self._what = what
        self._progress = progress
        self._digest = digest
        self._counted = 0
        self._state = threading.Condition()
        self._is_verified = digest is None
        self._error: BaseException | None = None
        self._is_stopped = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob from its start. May be called more than once. Raises MalformedImage and MachineError."""
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            self.report_read(offset)
            yield chunk
        self.wait(offset)

    def wait(self, offset: int) -> int:
        """Return the size: all bytes are there. At the end, wait until they are verified. Raises MalformedImage."""
        if offset >= self._size:
            with self._state:
                while not self._is_verified and self._error is None:
                    self._state.wait()
                if self._error is not None:
                    raise self._error
        return self._size

    def open_file(self) -> int:
        """Return a new descriptor of the file. Raises MachineError."""
        with machine_errors(f"open {self._what}"):
            return os.dup(self._file)

    def report_read(self, position: int) -> None:
        """Count what was read, as a reader has come to `position`, without what another has read before."""
        with self._state:
            count, self._counted = position - self._counted, max(position, self._counted)
        if count > 0:
            self._progress(count)

    def verify(self) -> None:
        """Compare the digest. An error is raised in the readers, not here."""
        error: BaseException | None = None
        try:
            if self._digest:
                self._compare(self._digest)
        except BaseException as raised:  # noqa: BLE001  the readers raise it
            error = raised
        with self._state:
            self._is_verified, self._error = error is None, error
            self._state.notify_all()

    def stop(self) -> None:
        """Make `verify` end at its next chunk."""
        self._is_stopped = True

    def _compare(self, digest: Digest) -> None:
        hasher, offset = digest.hasher(), 0
        while chunk := self._read(offset):
            if self._is_stopped:
                raise ProvisionError("stopped")
            hasher.update(chunk)
            offset += len(chunk)
        if hasher.hexdigest() != digest.hex:
            raise Mismatch(f"{self._what} does not match its digest {digest}")

    def _read(self, offset: int) -> bytes:
        """Return 1 to CHUNK bytes from `offset`, nothing at the end. Raises Mismatch where the file is shorter."""
        with machine_errors(f"read {self._what}"):
            chunk = os.pread(self._file, min(CHUNK, self._size - offset), self.start + offset)
        if not chunk and offset < self._size:
            raise Mismatch(f"{self._what} ends after {offset} of {self._size} bytes")
        return chunk


@contextmanager
def verifying(blobs: Sequence[FileBlob]) -> Iterator[None]:
    """Verify blobs in the background, one after another; at the end, nothing reads them any more."""

    def work() -> None:
        for blob in blobs:
            blob.verify()

    thread = BackgroundThread(work, "verify")
    try:
        thread.start()
        yield
    finally:
        for blob in blobs:
            blob.stop()
        thread.join()
