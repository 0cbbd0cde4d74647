"""Servers with the same content, an origin and its mirrors: retries, and the choice of the next one to ask."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from provisioner.errors import NetworkError, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.registry.retry import (
    GIVE_UP_SECONDS,
    MAX_PAUSES,
    MAX_PAUSES_AT_FIRST,
    PROGRESS_BYTES,
    Backoff,
    Timing,
    TransientError,
)

Client = TypeVar("Client")
_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class Endpoint(Generic[Client]):
    """A server to ask."""

    client: Client
    name: str
    """Its host and port, for messages."""
    is_origin: bool
    """Whether it is the server that the user named, not a mirror."""
    is_down: bool = False
    """Whether the last try failed before any content arrived."""
    is_excluded: bool = False
    """Whether this mirror is not asked again in this run."""
    is_announced: bool = False
    """Whether it was reported that content without a digest comes from this mirror."""


class Endpoints(Generic[Client]):
    """An origin and its mirrors. Thread-safe.

    Content without a digest comes from the origin, and from a mirror only if the origin can't be reached. Content with
    a digest comes from the first endpoint that answers, mirrors first. A mirror that refuses, or sends corrupt content,
    is not asked again in this run. `say` is called with one line for each retry and each change of endpoint. Methods
    raise ProvisionError when no endpoint is left to ask, or there is no progress.
    """

    def __init__(
        self,
        origin: Endpoint[Client],
        mirrors: Sequence[Endpoint[Client]],
        say: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self._origin = origin
        self._mirrors = mirrors
        self._say = say
        self._timing = timing or Timing()
        self._lock = threading.Lock()
        self._senders: dict[Digest, set[Endpoint[Client]]] = {}  # who sent parts of each blob in its last download
        self._corrupt_at_origin: set[Digest] = set()
        self._has_succeeded = False

    def ask(self, request: Callable[[Client], _Answer], mutable: str, consequence: str = "") -> _Answer:
        """Return the answer to `request` of the first endpoint that has one.

        `mutable` names content without a digest, such as a tag: the origin is asked for it first. It is empty for
        content with a digest. If a mirror answers for mutable content, a line says so and ends with `consequence`.
        """
        endpoints = [self._origin, *self._mirrors] if mutable else [*self._mirrors, self._origin]
        retries = self._retries(endpoints)
        while True:
            endpoint = retries.endpoint()
            try:
                answer = request(endpoint.client)
            except ProvisionError as error:
                # An answer of the origin about a tag is final, for example that the tag doesn't exist.
                if mutable and endpoint.is_origin and not isinstance(error, NetworkError):
                    raise
                endpoint.is_down = isinstance(error, TransientError)
                retries.record_failure(endpoint, error)
                continue
            endpoint.is_down, self._has_succeeded = False, True
            if mutable and not endpoint.is_origin and not endpoint.is_announced:
                endpoint.is_announced = True
                self._say(f"{mutable} comes from the mirror {endpoint.name}{consequence}")
            return answer

    def blob(
        self, descriptor: Descriptor, start: int, fetch: Callable[[Client, int], Generator[bytes, None, None]]
    ) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` on, not verified, from as many endpoints as needed.

        `fetch` yields them from an offset on. An empty chunk follows each failure, so that the reader can stop there.
        """
        senders: set[Endpoint[Client]] = set()
        with self._lock:
            self._senders[descriptor.digest] = senders
        retries = self._retries([*self._mirrors, self._origin])
        offset = start
        while offset < descriptor.size:
            endpoint, began = retries.endpoint(), offset
            failure: ProvisionError | None = None
            try:
                with closing(fetch(endpoint.client, offset)) as chunks:
                    for chunk in chunks:
                        offset += len(chunk)
                        senders.add(endpoint)
                        yield chunk
            except ProvisionError as error:
                failure = error
            if failure is None or offset == descriptor.size:
                endpoint.is_down, self._has_succeeded = False, True
                return
            yield b""
            if offset - began >= PROGRESS_BYTES:
                retries.reset()
            endpoint.is_down = offset == began
            retries.record_failure(endpoint, failure)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Exclude the mirrors that sent parts of a blob which doesn't match its digest.

        Return whether another try may bring the right bytes: the origin gets one more for each blob.
        """
        what = f"blob {descriptor.digest.short}"
        with self._lock:
            senders = self._senders.pop(descriptor.digest, ())
            if mirrors := [endpoint for endpoint in senders if not endpoint.is_origin]:
                for mirror in mirrors:
                    _exclude(mirror, f"{what} is not what its digest says", self._say)
                return True
            # A bad proxy or a flipped bit corrupts one download of many, a broken registry every one.
            may_retry = descriptor.digest not in self._corrupt_at_origin
            self._corrupt_at_origin.add(descriptor.digest)
        if may_retry:
            self._say(f"{self._origin.name} sent a corrupt {what}; downloading it again")
        return may_retry

    def _retries(self, endpoints: Sequence[Endpoint[Client]]) -> _Retries[Client]:
        backoff = Backoff(self._timing, MAX_PAUSES if self._has_succeeded else MAX_PAUSES_AT_FIRST)
        return _Retries(endpoints, backoff, self._timing, self._say)


class _Retries(Generic[Client]):
    """The tries for one document or blob: which endpoint to ask next, and when to give up."""

    def __init__(
        self, endpoints: Sequence[Endpoint[Client]], backoff: Backoff, timing: Timing, say: Callable[[str], None]
    ) -> None:
        self._endpoints = endpoints
        self._backoff = backoff
        self._timing = timing
        self._say = say
        self._failures: Counter[Endpoint[Client]] = Counter()
        self._errors: dict[Endpoint[Client], ProvisionError] = {}
        self._refused: set[Endpoint[Client]] = set()  # not asked again for this content
        self._ready_at: dict[Endpoint[Client], float] = {}  # when a server wants to be asked again

    def endpoint(self) -> Endpoint[Client]:
        """Return the endpoint to ask next, of those that are left.

        Endpoints that aren't down are preferred, then those with the fewest failures, then the first. Raises the error
        to show if none is left.
        """
        left = [endpoint for endpoint in self._endpoints if endpoint not in self._refused and not endpoint.is_excluded]
        if not left:
            raise self._error()
        return min(left, key=lambda endpoint: (endpoint.is_down, self._failures[endpoint]))

    def reset(self) -> None:
        """Reset the counters of failures. It is called after progress."""
        self._failures.clear()
        self._backoff.reset()

    def record_failure(self, endpoint: Endpoint[Client], error: ProvisionError) -> None:
        """Record a failure and wait until the next endpoint may be asked. Raises the error to show when it is time to
        give up."""
        self._errors[endpoint] = error
        if not isinstance(error, TransientError) or error.after > GIVE_UP_SECONDS:
            self._refused.add(endpoint)
            if not endpoint.is_origin:
                _exclude(endpoint, error.message, self._say)
            following = self.endpoint()
            if endpoint.is_origin:
                self._say(f"{error.message}; trying {following.name}")
            return
        self._failures[endpoint] += 1
        self._ready_at[endpoint] = self._timing.clock() + error.after
        following = self.endpoint()
        wait: float | None = 0.0
        if self._failures[following]:
            wait = self._backoff.pause(self._ready_at[following] - self._timing.clock())
        if wait is None:
            raise self._error()
        action = "trying again" if following is endpoint else f"trying {following.name}"
        self._say(f"{error.message}; {action}" + (f" in {wait:.0f} s" if wait >= 1 else ""))
        if wait:
            self._timing.sleep(wait)

    def _error(self) -> ProvisionError:
        """Return the error to show: the origin's if it was asked, else the last one."""
        return self._errors.get(self._endpoints[0] if self._endpoints[0].is_origin else self._endpoints[-1]) or next(
            reversed(self._errors.values())
        )


def _exclude(endpoint: Endpoint[Client], why: str, say: Callable[[str], None]) -> None:
    """Exclude a mirror from the rest of this run, and report that once."""
    if not endpoint.is_excluded:
        endpoint.is_excluded = True
        say(f"the mirror {endpoint.name} is not asked any more: {why}")
