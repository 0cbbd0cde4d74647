"""Downloads of blobs into the cache, which other threads read while the bytes arrive."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from provisioner.errors import MalformedImage, ProvisionError
from provisioner.image.digest import CHUNK, Mismatch, verified_chunks
from provisioner.image.manifest import Descriptor
from provisioner.store.blobs import BlobCache, BlobSource
from provisioner.store.partial import PartialFile, write_all
from provisioner.threads import BackgroundThread

ByteCounter = Callable[[int], None]
"""Called with the number of bytes that have become available, negative when that many turn out to be corrupt."""

STOP_SECONDS = 2.0
"""How long to wait for stopped downloads: they end at their next chunk, or never where the connection is dead."""


class Unverified(MalformedImage):
    """Bytes that were read before they were verified are corrupt, or may be. They have to be read again, verified."""


class Download:
    """The download of one blob into the cache: `run()` does it, `chunks()` reads the bytes in any other thread.

    Readers get bytes before they are verified. If the blob turns out not to match its digest, MalformedImage is raised
    in them before its end, or Unverified where another download may bring the right bytes. Corrupt data that no reader
    has consumed is downloaded again silently. With `verified_first`, readers wait until the whole blob is verified.
    `progress` counts the bytes that are received, and `present` those that the cache had before.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        cache: BlobCache,
        source: BlobSource,
        progress: ByteCounter,
        present: ByteCounter | None = None,
        *,
        verified_first: bool = False,
    ) -> None:
        self.descriptor = descriptor
        self._cache = cache
        self._source = source
        self._progress = progress
        self._present = present or progress
        self._verified_first = verified_first
        self.start = 0
        """Where the blob begins in its file."""
        self._state = threading.Condition()
        self._file: int | None = None
        self._available = 0  # bytes that readers may read
        self._read_up_to = 0  # bytes that a reader has got
        self._resumed = 0  # bytes that an earlier run has left
        self._done = False
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Download the blob. Errors are raised in the readers, not here."""
        failure: BaseException | None = None
        try:
            self._check_stopped()
            if not self._use_cached():
                with self._cache.partial(self.descriptor.digest) as partial:
                    # The process that had the lock before may have finished the blob.
                    if not self._use_cached():
                        self._download(partial)
        except BaseException as error:  # noqa: BLE001  the readers raise it
            failure = error
        with self._state:
            self._done, self._error = True, failure
            self._state.notify_all()

    def stop(self) -> None:
        """Make `run()` end at its next chunk, and the readers with it."""
        self._stopped = True

    def close(self) -> None:
        """Close the file. Nobody may read after this."""
        with self._state:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    @property
    def has_unverified_reads(self) -> bool:
        """Whether a reader has got bytes that are not verified and that may come out right in another download."""
        with self._state:
            return self._read_up_to > 0 and (not self._done or isinstance(self._error, Unverified))

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob from its start, as fast as it arrives. May be called more than once, and by any thread."""
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            yield chunk

    def wait(self, offset: int) -> int:
        """Wait for bytes behind `offset`, and return how many bytes from the start of the file may be read.

        It returns no more than `offset` when the blob has ended there, and is verified. Raises as `chunks` does.
        """
        with self._state:
            while (self._verified_first or self._available <= offset) and not self._done:
                self._state.wait()
            if self._error is not None:
                raise self._error
            self._read_up_to = max(self._read_up_to, self._available)
            return self._available

    def open_file(self) -> int:
        """Return a new descriptor of the file that the blob is in, after `wait`. Raises MachineError."""
        with self._state, self._cache.errors():
            if self._file is None:
                raise ProvisionError("stopped")
            return os.dup(self._file)

    def report_read(self, position: int) -> None:
        """Do nothing: what counts is how much has been downloaded."""

    def _read(self, offset: int) -> bytes:
        """Return 1 to CHUNK bytes from `offset`, waiting for them, or nothing at the end of a verified blob."""
        count = min(CHUNK, self.wait(offset) - offset)
        if count <= 0 or self._file is None:
            return b""
        with self._cache.errors():
            return os.pread(self._file, count, offset)

    def _use_cached(self) -> bool:
        """Use the whole blob in the cache and return True; return False where there is none.

        It is verified again, and deleted if it is damaged. Raises MalformedImage where the blob is sound but does not
        have the size that the descriptor announces.
        """
        digest = self.descriptor.digest
        with self._cache.errors():
            try:
                file = self._cache.open(digest)
            except FileNotFoundError:
                return False
        with file:
            hasher = digest.hasher()
            with self._cache.errors():
                while chunk := file.read(CHUNK):
                    self._check_stopped()
                    hasher.update(chunk)
                if hasher.hexdigest() != digest.hex:
                    self._cache.delete(digest)
                    return False
                size = file.tell()
            if size != self.descriptor.size:
                raise MalformedImage(f"{self._name} has {size} bytes, {self.descriptor.size} were announced")
            with suppress(OSError):  # the cache may be another user's
                os.utime(file.fileno())  # last use, for pruning
            self._serve(file.fileno())
        self._advance(size, self._present)
        return True

    def _download(self, partial: PartialFile) -> None:
        """Complete `partial`, and move it to the place of whole blobs when it is verified."""
        self._serve(partial.file.fileno())
        digest, size = self.descriptor.digest, self.descriptor.size
        while True:
            try:
                position = 0
                for chunk in verified_chunks(self._content(partial), digest, size, self._name):
                    self._advance(len(chunk), self._present if position < self._resumed else self._progress)
                    position += len(chunk)
                break
            except Mismatch as error:
                self._start_over(partial, error)
        with self._cache.errors():
            self._cache.complete(partial, digest)

    def _content(self, partial: PartialFile) -> Iterator[bytes]:
        """Yield the bytes in `partial`, then those that are missing, which are downloaded and written to it first."""
        with self._cache.errors():
            self._resumed, count = os.fstat(partial.file.fileno()).st_size, 0
        while True:
            self._check_stopped()
            with self._cache.errors():
                chunk = os.pread(partial.file.fileno(), CHUNK, count)
            if not chunk:
                break
            count += len(chunk)
            yield chunk
        if count < self.descriptor.size:
            for chunk in self._source.blob(self.descriptor, count):
                self._check_stopped()
                with self._cache.errors():
                    write_all(partial.file, chunk)
                yield chunk

    def _start_over(self, partial: PartialFile, error: Mismatch) -> None:
        """Empty `partial` for another download.

        Raises `error` where another download is no use, Unverified where readers have got some of the bytes.
        """
        # The bytes of an earlier run may be the corrupt ones, and where those came from is not known.
        may_succeed = self._resumed > 0 or self._source.report_corrupt(self.descriptor)
        with self._state:
            has_readers, count, self._available = self._read_up_to > 0, self._available, 0
        if has_readers or not may_succeed:
            # The file is deleted, not emptied: its content must not change under a reader that has it open.
            with self._cache.errors():
                self._cache.discard(partial)
            raise Unverified(error.message) if may_succeed else error
        with self._cache.errors():
            partial.file.truncate(0)
        self._progress(-count)

    def _serve(self, file: int) -> None:
        """Let readers read from this open file."""
        with self._state, self._cache.errors():
            self._file = os.dup(file)

    def _advance(self, count: int, counter: ByteCounter) -> None:
        """Let readers read `count` more bytes, and count them."""
        with self._state:
            self._available += count
            self._state.notify_all()
        counter(count)

    def _check_stopped(self) -> None:
        if self._stopped:
            raise ProvisionError("stopped")

    @property
    def _name(self) -> str:
        return f"blob {self.descriptor.digest.short}"


def fetch_blob(descriptor: Descriptor, cache: BlobCache, source: BlobSource) -> bytes:
    """Return a small blob: from `cache`, else from `source`, and then it is in the cache.

    Raises MachineError where the cache can't be written, MalformedImage, and what `source` raises.
    """
    download = Download(descriptor, cache, source, lambda count: None)
    try:
        download.run()
        return b"".join(download.chunks())
    finally:
        download.close()


@contextmanager
def downloading(downloads: Sequence[Download], jobs: int, stop_seconds: float = STOP_SECONDS) -> Iterator[None]:
    """Run downloads in the background, in their order and `jobs` at a time; stop and close them at the end.

    The threads are daemons: Ctrl-C must not wait for a server that sends nothing. At the end they get `stop_seconds`.
    """
    waiting: queue.SimpleQueue[Download] = queue.SimpleQueue()
    for download in downloads:
        waiting.put(download)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait().run()

    threads = [BackgroundThread(work, f"download-{n}") for n in range(min(jobs, len(downloads)))]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        for download in downloads:
            download.stop()
        deadline = time.monotonic() + stop_seconds
        for thread in (thread for thread in threads if thread.is_alive()):
            thread.join(max(0.0, deadline - time.monotonic()))
        for download in downloads:
            download.close()
