"""A registry with its mirrors: retries, and the choice of whom to ask next."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from provisioner.errors import NetworkError, ProvisionError, UsageError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import Document, RegistryClient
from provisioner.registry.retry import (
    GIVE_UP_SECONDS,
    MAX_PAUSES,
    MAX_PAUSES_AT_FIRST,
    PROGRESS_BYTES,
    Backoff,
    Timing,
    TransientError,
)
from provisioner.terminal.escaping import printable

MakeClient = Callable[[Reference, bool], RegistryClient]
"""Makes the client for a reference. The second argument says whether plain HTTP to its registry is allowed."""

_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class _Endpoint:
    """A registry to ask."""

    client: RegistryClient
    name: str
    """Its host and port, for messages."""
    is_origin: bool
    """Whether it is the registry that the user named, and not a mirror of it."""
    is_down: bool = False
    """Whether the last try failed before anything came."""
    is_excluded: bool = False
    """Whether this mirror isn't asked any more in this run."""
    is_announced: bool = False
    """Whether a line has said that tags come from this mirror."""


class Mirrors:
    """The registry of `reference` and `mirrors` of it, addresses as a user types them. Thread-safe.

    A tag is resolved by the registry itself, and by a mirror only when the registry can't be reached. Content with a
    digest comes from the first that answers, mirrors first. A mirror that refuses, or sends corrupt content, is not
    asked any more in this run. `say` is called with one line for each retry and each switch. Raises UsageError for a
    malformed mirror; methods raise ProvisionError when there is nobody left to ask, or no progress.
    """

    def __init__(
        self,
        reference: Reference,
        mirrors: Sequence[str],
        client: MakeClient,
        say: Callable[[str], None] = lambda line: None,
        timing: Timing | None = None,
    ) -> None:
        self._origin = _Endpoint(client(reference, False), reference.registry, is_origin=True)
        located = [locate_mirror(text, reference) for text in dict.fromkeys(mirrors)]
        self._mirrors = [_Endpoint(client(where, plain), where.registry, is_origin=False) for where, plain in located]
        self._say = say
        self._timing = timing or Timing()
        self._lock = threading.Lock()
        self._senders: dict[Digest, set[_Endpoint]] = {}  # who sent parts of each blob in its last download
        self._corrupt_at_origin: set[Digest] = set()
        self._has_succeeded = False

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest of a tag or a digest (see RegistryClient)."""
        return self._document(selector, lambda client: client.manifest(selector))

    def resolve(self, selector: str) -> Descriptor:
        """Return the descriptor of a tag or a digest (see RegistryClient)."""
        return self._document(selector, lambda client: client.resolve(selector))

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags and its Link header (see RegistryClient)."""
        return self._ask(lambda client: client.tags_page(query), "the list of tags")

    def _document(self, selector: str | Descriptor, request: Callable[[RegistryClient], _Answer]) -> _Answer:
        is_tag = isinstance(selector, str) and ":" not in selector
        return self._ask(request, f"tag {selector!r}" if is_tag else "")

    def _ask(self, request: Callable[[RegistryClient], _Answer], mutable: str) -> _Answer:
        """Return the answer to `request` of the first endpoint that has one.

        `mutable` names content without a digest, such as a tag: the registry itself is asked for it first. It is empty
        for content with a digest.
        """
        endpoints = [self._origin, *self._mirrors] if mutable else [*self._mirrors, self._origin]
        retries = self._retries(endpoints)
        while True:
            endpoint = retries.endpoint()
            try:
                answer = request(endpoint.client)
            except ProvisionError as error:
                # An answer of the registry itself about a tag is final, such as that there is none.
                if mutable and endpoint.is_origin and not isinstance(error, NetworkError):
                    raise
                endpoint.is_down = isinstance(error, TransientError)
                retries.record_failure(endpoint, error)
                continue
            endpoint.is_down, self._has_succeeded = False, True
            if mutable and not endpoint.is_origin and not endpoint.is_announced:
                endpoint.is_announced = True
                self._say(f"{mutable} comes from the mirror {endpoint.name}")
            return answer

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` on, not verified, from as many endpoints as needed.

        An empty chunk follows each failure, so that the reader can stop there.
        """
        senders: set[_Endpoint] = set()
        with self._lock:
            self._senders[descriptor.digest] = senders
        retries = self._retries([*self._mirrors, self._origin])
        offset = start
        while offset < descriptor.size:
            endpoint, began = retries.endpoint(), offset
            failure: ProvisionError | None = None
            try:
                with closing(endpoint.client.blob(descriptor, offset)) as chunks:
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

        Return whether another try may bring the right bytes: the registry itself gets one more for each blob.
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

    def _retries(self, endpoints: Sequence[_Endpoint]) -> _Retries:
        backoff = Backoff(self._timing, MAX_PAUSES if self._has_succeeded else MAX_PAUSES_AT_FIRST)
        return _Retries(endpoints, backoff, self._timing, self._say)


class _Retries:
    """The tries for one document or blob: whom to ask next, and when to give up."""

    def __init__(
        self, endpoints: Sequence[_Endpoint], backoff: Backoff, timing: Timing, say: Callable[[str], None]
    ) -> None:
        self._endpoints = endpoints
        self._backoff = backoff
        self._timing = timing
        self._say = say
        self._failures: Counter[_Endpoint] = Counter()
        self._errors: dict[_Endpoint, ProvisionError] = {}
        self._refused: set[_Endpoint] = set()  # not asked again for this content
        self._ready_at: dict[_Endpoint, float] = {}  # when a server wants to be asked again

    def endpoint(self) -> _Endpoint:
        """Return whom to ask next: of those left, one that isn't down, then with the fewest failures, then the first.

        Raises the error to show where nobody is left.
        """
        left = [endpoint for endpoint in self._endpoints if endpoint not in self._refused and not endpoint.is_excluded]
        if not left:
            raise self._error()
        return min(left, key=lambda endpoint: (endpoint.is_down, self._failures[endpoint]))

    def reset(self) -> None:
        """Forget the failures so far. To be called after progress."""
        self._failures.clear()
        self._backoff.reset()

    def record_failure(self, endpoint: _Endpoint, error: ProvisionError) -> None:
        """Record a failure and wait until the next endpoint may be asked. Raises the error to show to give up."""
        self._errors[endpoint] = error
        if not isinstance(error, TransientError) or error.after > GIVE_UP_SECONDS:
            self._refused.add(endpoint)
            if not endpoint.is_origin:
                _exclude(endpoint, error.message, self._say)
            self.endpoint()
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
        """Return the error to show: that of the registry itself, if it was asked."""
        return self._errors.get(self._endpoints[0] if self._endpoints[0].is_origin else self._endpoints[-1]) or next(
            reversed(self._errors.values())
        )


def _exclude(endpoint: _Endpoint, why: str, say: Callable[[str], None]) -> None:
    """Ask a mirror no more in this run, and say so once."""
    if not endpoint.is_excluded:
        endpoint.is_excluded = True
        say(f"the mirror {endpoint.name} is not asked any more: {why}")


def locate_mirror(text: str, reference: Reference) -> tuple[Reference, bool]:
    """Return the image of `reference` on the mirror `[http://]HOST[:PORT][/PREFIX]`, and whether plain HTTP is allowed.

    Raises UsageError for a malformed mirror.
    """
    hint = "a mirror looks like mirror.example, 192.168.1.2:5000/prefix or http://nas.lan:5000"
    if "@" in text:  # it may be a password, which isn't shown
        raise UsageError("a mirror's address can't have credentials in it", hint)
    is_plain = text.startswith("http://")
    host, _, prefix = text.removeprefix("http://").removeprefix("https://").rstrip("/").partition("/")
    if not set(".:") & set(host) and host != "localhost":
        host += ":80" if is_plain else ":443"  # without one, the host would be parsed as the first part of a name
    try:
        where = Reference.parse(
            f"{host}/{prefix}/{reference.repository}" if prefix else f"{host}/{reference.repository}"
        )
    except UsageError as error:
        raise UsageError(
            f"{printable(text)[:200]!r} is not a mirror: {error.message.rpartition(': ')[2]}", hint
        ) from None
    return replace(where, tag=reference.tag, digest=reference.digest), is_plain
