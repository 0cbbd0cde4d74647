"""The blob cache: verified content on disk by its digest, shared between processes, readable while it arrives."""

from __future__ import annotations

import errno
import io
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from provisioner.errors import MachineError, MalformedImage, ProvisionError, machine_errors
from provisioner.filesystem.locks import lock, unlock
from provisioner.image.digest import CHUNK, Digest, Mismatch, verified_chunks
from provisioner.image.manifest import Descriptor
from provisioner.terminal.escaping import printable
from provisioner.threads import BackgroundThread


class Origin(Protocol):
    """Where blobs come from."""

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, in order, not yet verified. An empty chunk only says: still at it."""

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Is told that a blob, given from its start, wasn't what its digest says. Whether it may be right next time."""


class Served:
    """An origin that is a function: it gives the bytes of a blob from the start, and has nothing better."""

    def __init__(self, give: Callable[[Descriptor], Iterator[bytes]]) -> None:
        self._give = give

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """What the function gives, from `start` on."""
        for chunk in self._give(descriptor):
            yield chunk[start:]
            start = max(0, start - len(chunk))

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Always False."""
        return False


class Unverified(MalformedImage):
    """What has been read of a blob on its way is wrong, or may be: it has to be read again, verified this time."""


ByteCounter = Callable[[int], None]
"""Is told of each number of bytes that has become available; of a negative one when that many have proved wrong."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_STOP_SECONDS = 2.0
"""How long downloads may take to notice that they are to stop: they do at their next chunk, or never in a dead link."""


class BlobCache:
    """A directory of blobs: `sha256/HEX` when whole and verified, `partial/HEX` as far as they have come."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be, once it is whole."""
        return self._directory / digest.algorithm / digest.hex

    def get(self, descriptor: Descriptor, origin: Origin) -> bytes:
        """A small blob as bytes: from the cache where it is whole there, else from `origin` and then kept."""
        arrival = Download(descriptor, self, origin, lambda count: None)
        try:
            arrival.run()
            return b"".join(arrival.chunks())
        finally:
            arrival.close()

    def kept(self, descriptor: Descriptor) -> int:
        """How many bytes of a blob are here, verified or not."""
        for path in (self.path(descriptor.digest), self._partial(descriptor.digest)):
            with suppress(OSError):
                return min(path.stat().st_size, descriptor.size)
        return 0

    def _partial(self, digest: Digest) -> Path:
        return self._directory / "partial" / digest.hex

    @contextmanager
    def partial(self, digest: Digest) -> Iterator[io.FileIO]:
        """The file that a blob is being written to, held by one process at a time; others wait.

        The lock is on the open file, so it ends with the process that holds it. What has come so far stays, whatever
        ends the process: the next one goes on with it.
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
        """Turn an OSError into a MachineError that says where the cache is and how to have it elsewhere."""
        try:
            with machine_errors(f"use the cache {printable(str(self._directory))}"):
                yield
        except MachineError as error:
            is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
            other = "name another directory in PROVISION_CACHE_DIR"
            error.hint = f"free some space there, or {other}" if is_full else f"{other}, or use none: --no-cache"
            raise


def _locked(path: Path) -> io.FileIO:
    """`path` open and locked, made where there is none; waits for whoever holds it."""
    while True:
        file = io.FileIO(path, "a+")
        try:
            lock(file)
            if _same_file(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it made it whole, or took it away


def _write(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _same_file(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


class Download:
    """One blob on its way into the cache: `run()` brings it, `chunks()` follows it in any other thread.

    What a reader gets is not verified until it has met the end: it fails there with MalformedImage when the content is
    not what the digest says; with Unverified when it may be had from elsewhere. What nobody has read yet is fetched
    again without a word. With `verified_first`, readers wait until the whole blob is verified.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        cache: BlobCache,
        origin: Origin,
        progress: ByteCounter,
        *,
        verified_first: bool = False,
    ) -> None:
        self.descriptor = descriptor
        self._cache = cache
        self._origin = origin
        self._progress = progress
        self._verified_first = verified_first
        self._state = threading.Condition()
        self._file: int | None = None
        self._available = 0
        self._given = 0
        self._start = 0
        self._done = False
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Bring the blob. What goes wrong is raised in the readers, not here."""
        failure: BaseException | None = None
        try:
            self._check_stopped()
            if not self._take_from_cache():
                with self._cache.partial(self.descriptor.digest) as partial:
                    # Whoever held the partial file before may have made the blob whole.
                    if not self._take_from_cache():
                        self._download(partial)
        except BaseException as error:  # noqa: BLE001  the readers raise it
            failure = error
        with self._state:
            self._done, self._error = True, failure
            self._state.notify_all()

    def stop(self) -> None:
        """Make `run()` end at its next chunk, and readers with it."""
        self._stopped = True

    def close(self) -> None:
        """Let the file go. Nobody may read any more."""
        with self._state:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    @property
    def is_doubtful(self) -> bool:
        """Whether something has been read that is not verified, and can be had again."""
        with self._state:
            return self._given > 0 and (not self._done or isinstance(self._error, Unverified))

    def chunks(self) -> Iterator[bytes]:
        """The blob from its start, at the pace at which it arrives. May be called again, and by any thread."""
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            yield chunk

    def _read(self, offset: int) -> bytes:
        """What there is from `offset`, at least one byte and CHUNK at most; nothing at the end of a verified blob."""
        with self._state:
            while (self._verified_first or self._available <= offset) and not self._done:
                self._state.wait()
            if self._error is not None:
                raise self._error
            wanted = min(CHUNK, self._available - offset)
            self._given = max(self._given, offset + wanted)
        if wanted <= 0 or self._file is None:
            return b""
        with self._cache.errors():
            return os.pread(self._file, wanted, offset)

    def _take_from_cache(self) -> bool:
        """Use the whole blob that is there already, verified anew. A damaged one is taken away.

        Raises MalformedImage where the blob is sound and its size isn't the one that was announced.
        """
        digest, path = self.descriptor.digest, self._cache.path(self.descriptor.digest)
        with self._cache.errors():
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                return False
        with file:
            hasher = digest.hasher()
            with self._cache.errors():
                while chunk := file.read(CHUNK):
                    self._check_stopped()
                    hasher.update(chunk)
                if hasher.hexdigest() != digest.hex:
                    path.unlink(missing_ok=True)
                    return False
                size = file.tell()
            if size != self.descriptor.size:
                raise MalformedImage(f"{self._what} has {size} bytes, {self.descriptor.size} were announced")
            with suppress(OSError):  # the cache may be another user's
                os.utime(path)  # last use, for pruning
            self._follow(file.fileno())
        self._advance(size)
        return True

    def _download(self, partial: io.FileIO) -> None:
        """Go on with `partial` until it is the whole blob, and put it in its place when it has proved to be right."""
        self._follow(partial.fileno())
        digest, size = self.descriptor.digest, self.descriptor.size
        while True:
            try:
                for chunk in verified_chunks(self._content(partial), digest, size, self._what):
                    self._advance(len(chunk))
                break
            except Mismatch as error:
                self._start_over(partial, error)
        with self._cache.errors():
            os.rename(partial.name, self._cache.path(digest))

    def _content(self, partial: io.FileIO) -> Iterator[bytes]:
        """What is in `partial`, then what the origin has to add, which is written there first."""
        with self._cache.errors():
            self._start, count = os.fstat(partial.fileno()).st_size, 0
        while True:
            self._check_stopped()
            with self._cache.errors():
                chunk = os.pread(partial.fileno(), CHUNK, count)
            if not chunk:
                break
            count += len(chunk)
            yield chunk
        if count < self.descriptor.size:
            for chunk in self._origin.blob(self.descriptor, count):
                self._check_stopped()
                with self._cache.errors():
                    _write(partial, chunk)
                yield chunk

    def _start_over(self, partial: io.FileIO, error: Mismatch) -> None:
        """Empty `partial` for another try. Raises `error` where there is none, Unverified where it has been read."""
        # What was there before may be to blame, and nobody knows who gave it.
        is_to_be_had = self._start > 0 or self._origin.report_corrupt(self.descriptor)
        with self._state:
            has_readers, count, self._available = self._given > 0, self._available, 0
        if has_readers or not is_to_be_had:
            # Its name goes, not its content: what a reader has open must not change.
            with self._cache.errors():
                os.unlink(partial.name)
            raise Unverified(error.message) if is_to_be_had else error
        with self._cache.errors():
            partial.truncate(0)
        self._progress(-count)

    def _follow(self, file: int) -> None:
        """Let readers read from `file`."""
        with self._state, self._cache.errors():
            self._file = os.dup(file)

    def _advance(self, count: int) -> None:
        with self._state:
            self._available += count
            self._state.notify_all()
        self._progress(count)

    def _check_stopped(self) -> None:
        if self._stopped:
            raise ProvisionError("stopped")

    @property
    def _what(self) -> str:
        return f"blob {self.descriptor.digest.short}"


@contextmanager
def downloading(arrivals: Sequence[Download], jobs: int) -> Iterator[None]:
    """Bring blobs in the background, `jobs` at a time, in their order; stop and close them at the end.

    The threads are daemons: Ctrl-C must not wait for a server that is silent.
    """
    waiting: queue.SimpleQueue[Download] = queue.SimpleQueue()
    for arrival in arrivals:
        waiting.put(arrival)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait().run()

    threads = [BackgroundThread(work, f"download-{n}") for n in range(min(jobs, len(arrivals)))]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        for arrival in arrivals:
            arrival.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in (thread for thread in threads if thread.is_alive()):
            thread.join(max(0.0, deadline - time.monotonic()))
        for arrival in arrivals:
            arrival.close()
