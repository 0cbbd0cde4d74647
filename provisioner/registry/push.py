"""Pushes an image: the blobs that the registry lacks, then the manifest. Retries continue interrupted uploads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.stored_blob import StoredBlob
from provisioner.registry.push_client import PushClient, TooLarge, Upload
from provisioner.registry.retry import (
    GIVE_UP_SECONDS,
    MAX_PAUSES,
    MAX_PAUSES_AT_FIRST,
    PROGRESS_BYTES,
    Backoff,
    Timing,
    TransientError,
)

_CHUNK = 32 << 20
"""The size of a chunk, in bytes, for a registry that doesn't accept whole blobs."""
_SMALLEST_CHUNK = 1 << 20

_Answer = TypeVar("_Answer")


class Push:
    """A push of one image to a repository.

    `say` is called with one line for each retry. Methods raise ProvisionError.
    """

    def __init__(
        self,
        client: PushClient,
        say: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self._client = client
        self._say = say
        self.progress: Callable[[int], None] = lambda count: None
        """Called with the number of bytes that were sent; with a negative number for bytes that have to be sent
        again."""
        self._timing = timing or Timing()
        self._has_succeeded = False
        self._is_chunked = False
        """Whether the registry has refused a whole blob."""
        self._chunk = _CHUNK
        self._begun: dict[Digest, Upload] = {}
        """The uploads that were started, and have no bytes yet."""

    def has_tag(self, tag: str, digest: Digest) -> bool:
        """Return whether the tag names the manifest with this digest."""
        try:
            return self._retry(lambda: self._client.resolve(tag)).digest == digest
        except (NotFound, NotAllowed, MalformedImage):
            return False

    def has_blob(self, descriptor: Descriptor, *, may_mount: bool) -> bool:
        """Return whether the repository has a blob. With `may_mount`, first try to mount it from another repository."""
        if self._retry(lambda: self._client.has_blob(descriptor)):
            return True
        if not may_mount or not self._client.mounts:
            return False
        upload = self._retry(lambda: self._client.start(descriptor.digest))
        if upload is None:
            return True
        self._begun[descriptor.digest] = upload
        return False

    def push_blob(self, blob: StoredBlob) -> bool:
        """Send a blob unless the repository has it, then check that it has it. Return whether it was sent."""
        descriptor = blob.descriptor
        upload = self._begun.pop(descriptor.digest, None)
        if upload is None and self._retry(lambda: self._client.has_blob(descriptor)):
            return False
        self._send(blob, upload)
        if not self._retry(lambda: self._client.has_blob(descriptor)):
            raise NetworkError(
                f"the registry has taken the blob {descriptor.digest.short}, but doesn't have it",
                "try again; if it fails again, tell the registry's owner",
            )
        return True

    def push_manifest(self, tag: str, data: bytes, media_type: str) -> None:
        """Write a manifest to a tag, then check that the tag has it, byte for byte."""
        digest = Digest.of(data)
        self._retry(lambda: self._client.put_manifest(tag, data, media_type))
        found = self._retry(lambda: self._client.manifest(tag))
        if found.digest != digest or found.data != data:
            raise NetworkError(
                f"the tag {tag!r} is {found.digest!s:.19} now, and not {digest!s:.19}, which was pushed",
                "somebody else may have pushed at the same time: try again",
            )

    def _send(self, blob: StoredBlob, upload: Upload | None) -> None:
        """Send a blob, whole or in chunks. After a failure, continue at the offset that the registry states."""
        tries, failures = self._tries(), 0
        while True:
            began = upload.offset if upload else 0
            try:
                if upload is None:
                    upload = self._client.start(blob.descriptor.digest)
                    if upload is None:
                        return
                upload = self._send_parts(blob, upload)
                if upload is None:
                    self._has_succeeded = True
                    return
            except TransientError as error:
                tries.pause(error)
                failures += 1
                self._is_chunked = self._is_chunked or failures > 1  # large requests may be cut off on the way
                upload = self._resume(blob, upload)
                if upload is None and self._retry(lambda: self._client.has_blob(blob.descriptor)):
                    return  # only the answer was lost
                if upload and upload.offset - began >= PROGRESS_BYTES:
                    tries.reset()

    def _send_parts(self, blob: StoredBlob, upload: Upload) -> Upload | None:
        """Send the rest of a blob and return None. If the registry refuses its size, return an upload to continue
        with."""
        sent = _Counter(self.progress)
        try:
            while (self._is_chunked or upload.offset) and upload.offset < blob.size:
                chunk = max(self._chunk, upload.least)
                upload = self._client.patch(upload, blob, min(chunk, blob.size - upload.offset), sent.add)
                sent.count = 0
            try:
                self._client.put(upload, blob, sent.add)
                return None
            except TooLarge:
                if upload.offset == blob.size:
                    raise
                self._is_chunked = True
                self._say("the registry doesn't accept a whole blob: sending it in chunks")
        except TooLarge:
            smaller = max(upload.least, self._chunk // 2)
            if not self._is_chunked or smaller < _SMALLEST_CHUNK or smaller >= self._chunk:
                raise
            self._chunk = smaller
            self._say(f"the registry doesn't accept chunks of this size: sending {smaller >> 20} MiB at a time")
        except BaseException:
            sent.take_back()
            raise
        sent.take_back()
        return self._resume(blob, upload) or self._client.start(blob.descriptor.digest)

    def _resume(self, blob: StoredBlob, upload: Upload | None) -> Upload | None:
        """Return the upload in its state at the registry; None if it has to be started again."""
        if upload is None:
            return None
        begun = upload
        try:
            found = self._retry(lambda: self._client.status(begun, blob.size))
        except (NetworkError, NotFound, NotAllowed):
            return None
        if found is None or found.offset < begun.offset:
            self.progress(-begun.offset)
            return None
        self.progress(found.offset - begun.offset)
        return replace(found, least=max(found.least, begun.least))

    def _retry(self, request: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a request, which is repeated after a TransientError."""
        tries = self._tries()
        while True:
            try:
                answer = request()
            except TransientError as error:
                tries.pause(error)
                continue
            self._has_succeeded = True
            return answer

    def _tries(self) -> _Tries:
        return _Tries(
            Backoff(self._timing, MAX_PAUSES if self._has_succeeded else MAX_PAUSES_AT_FIRST), self._timing, self._say
        )


class _Counter:
    """Reports the bytes that one request has sent, and can subtract them again."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self.count = 0

    def add(self, count: int) -> None:
        self.count += count
        self._progress(count)

    def take_back(self) -> None:
        self._progress(-self.count)
        self.count = 0


class _Tries:
    """The tries of one request or blob."""

    def __init__(self, backoff: Backoff, timing: Timing, say: Callable[[str], None]) -> None:
        self._backoff = backoff
        self._timing = timing
        self._say = say

    def reset(self) -> None:
        """Reset the counter of failures. It is called after progress."""
        self._backoff.reset()

    def pause(self, error: TransientError) -> None:
        """Report the next try and wait for it. Raises `error` when it is time to give up."""
        wait = None if error.after > GIVE_UP_SECONDS else self._backoff.pause(error.after)
        if wait is None:
            raise error
        self._say(f"{error.message}; trying again" + (f" in {wait:.0f} s" if wait >= 1 else ""))
        self._timing.sleep(wait)
