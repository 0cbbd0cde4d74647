"""A registry and its mirrors as one: asked until something answers, going on elsewhere where it broke off."""

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
from provisioner.registry.retry import PATIENCE_SECONDS, PAUSES, PAUSES_AT_FIRST, PROGRESS, Backoff, Patience, Transient
from provisioner.terminal.escaping import printable

MakeClient = Callable[[Reference, bool], RegistryClient]
"""Makes the client for a reference; the second argument allows plain HTTP to its registry."""

_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class _Endpoint:
    """A registry to ask: the origin, which the user named, or a mirror of it.

    `is_down` says that the last try there failed before anything came; `is_aside`, that it isn't asked any more;
    `is_told`, that the user knows of a mirror's word being taken for tags.
    """

    client: RegistryClient
    name: str
    is_origin: bool
    is_down: bool = False
    is_aside: bool = False
    is_told: bool = False


class Mirrors:
    """The registry of `reference` and, before it, `mirrors` of its content. Safe to use from several threads.

    A tag is resolved by the registry itself, and by a mirror only when that can't be reached. What is asked for by its
    digest comes from whichever answers, mirrors first. A mirror that gives something wrong, or refuses, is set aside
    for the run. `say` is told of each retry and each switch, in one line.
    """

    def __init__(
        self,
        reference: Reference,
        mirrors: Sequence[str],
        client: MakeClient,
        say: Callable[[str], None] = lambda line: None,
        patience: Patience | None = None,
    ) -> None:
        self._origin = _Endpoint(client(reference, False), reference.registry, is_origin=True)
        located = [_located(text, reference) for text in dict.fromkeys(mirrors)]
        self._mirrors = [_Endpoint(client(where, plain), where.registry, is_origin=False) for where, plain in located]
        self._say = say
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._givers: dict[Digest, set[_Endpoint]] = {}
        self._doubted: set[Digest] = set()
        self._has_worked = False

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names, as RegistryClient gives it."""
        return self._document(selector, lambda client: client.manifest(selector))

    def resolve(self, selector: str) -> Descriptor:
        """What a tag or a digest names now, as RegistryClient gives it."""
        return self._document(selector, lambda client: client.resolve(selector))

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """One page of the list of tags, as RegistryClient gives it."""
        return self._answer(lambda client: client.tags_page(query), "the list of tags")

    def _document(self, selector: str | Descriptor, ask: Callable[[RegistryClient], _Answer]) -> _Answer:
        is_tag = isinstance(selector, str) and ":" not in selector
        return self._answer(ask, f"tag {selector!r}" if is_tag else "")

    def _answer(self, ask: Callable[[RegistryClient], _Answer], tag: str) -> _Answer:
        """What `ask` gets from whoever has the word; `tag` says what that is where a digest doesn't hold it."""
        endpoints = [self._origin, *self._mirrors] if tag else [*self._mirrors, self._origin]
        trial = self._trial(endpoints)
        while True:
            endpoint = trial.endpoint()
            try:
                answer = ask(endpoint.client)
            except ProvisionError as error:
                # What the registry itself says of a tag is final, unless that is nothing at all.
                if tag and endpoint.is_origin and not isinstance(error, NetworkError):
                    raise
                endpoint.is_down = isinstance(error, Transient)
                trial.failed(endpoint, error)
                continue
            endpoint.is_down, self._has_worked = False, True
            if tag and not endpoint.is_origin and not endpoint.is_told:
                endpoint.is_told = True
                self._say(f"{tag} is what the mirror {endpoint.name} has for it")
            return answer

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, not yet verified, from as many places as it takes.

        An empty chunk comes after each failure: whoever reads can stop there.
        """
        givers: set[_Endpoint] = set()
        with self._lock:
            self._givers[descriptor.digest] = givers
        trial = self._trial([*self._mirrors, self._origin])
        offset = start
        while offset < descriptor.size:
            endpoint, began = trial.endpoint(), offset
            failure: ProvisionError | None = None
            try:
                with closing(endpoint.client.blob(descriptor, offset)) as chunks:
                    for chunk in chunks:
                        offset += len(chunk)
                        givers.add(endpoint)
                        yield chunk
            except ProvisionError as error:
                failure = error
            if failure is None or offset == descriptor.size:
                endpoint.is_down, self._has_worked = False, True
                return
            yield b""
            if offset - began >= PROGRESS:
                trial.progressed()
            endpoint.is_down = offset == began
            trial.failed(endpoint, failure)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Is told that a blob, given from its start, wasn't what its digest says. Whether it may be right next time."""
        what = f"blob {descriptor.digest.short}"
        with self._lock:
            givers = self._givers.pop(descriptor.digest, ())
            if liars := [endpoint for endpoint in givers if not endpoint.is_origin]:
                for liar in liars:
                    _set_aside(liar, f"{what} is not what its digest says", self._say)
                return True
            # A broken proxy or a flipped bit spoils one of many; a registry that is broken, every time.
            again = descriptor.digest not in self._doubted
            self._doubted.add(descriptor.digest)
        if again:
            self._say(f"{self._origin.name} gave a wrong {what}: from the start again")
        return again

    def _trial(self, endpoints: Sequence[_Endpoint]) -> _Trial:
        backoff = Backoff(self._patience, PAUSES if self._has_worked else PAUSES_AT_FIRST)
        return _Trial(endpoints, backoff, self._patience, self._say)


class _Trial:
    """One document or blob on its way: whom to ask next, and when to give up."""

    def __init__(
        self, endpoints: Sequence[_Endpoint], backoff: Backoff, patience: Patience, say: Callable[[str], None]
    ) -> None:
        self._endpoints = endpoints
        self._backoff = backoff
        self._patience = patience
        self._say = say
        self._failures: Counter[_Endpoint] = Counter()
        self._errors: dict[_Endpoint, ProvisionError] = {}
        self._refused: set[_Endpoint] = set()
        self._ready: dict[_Endpoint, float] = {}

    def endpoint(self) -> _Endpoint:
        """The best of what is left: one that isn't down, has failed least, comes first. Raises what was wrong."""
        left = [endpoint for endpoint in self._endpoints if endpoint not in self._refused and not endpoint.is_aside]
        if not left:
            raise self._error()
        return min(left, key=lambda endpoint: (endpoint.is_down, self._failures[endpoint]))

    def progressed(self) -> None:
        """Forget the failures so far: something has been got since."""
        self._failures.clear()
        self._backoff.progressed()

    def failed(self, endpoint: _Endpoint, error: ProvisionError) -> None:
        """Note what went wrong, and wait until `place()` may be asked. Raises when there is no use in that."""
        self._errors[endpoint] = error
        if not isinstance(error, Transient) or error.after > PATIENCE_SECONDS:
            self._refused.add(endpoint)
            if not endpoint.is_origin:
                _set_aside(endpoint, error.message, self._say)
            self.endpoint()
            return
        self._failures[endpoint] += 1
        self._ready[endpoint] = self._patience.clock() + error.after
        following = self.endpoint()
        wait: float | None = 0.0
        if self._failures[following]:
            wait = self._backoff.pause(self._ready[following] - self._patience.clock())
        if wait is None:
            raise self._error()
        where = "again" if following is endpoint else f"on with {following.name}"
        self._say(f"{error.message}; {where}" + (f" in {wait:.0f} s" if wait >= 1 else ""))
        if wait:
            self._patience.sleep(wait)

    def _error(self) -> ProvisionError:
        """What to tell the user: what the origin said, if it was asked."""
        return self._errors.get(self._endpoints[0] if self._endpoints[0].is_origin else self._endpoints[-1]) or next(
            reversed(self._errors.values())
        )


def _set_aside(endpoint: _Endpoint, why: str, say: Callable[[str], None]) -> None:
    if not endpoint.is_aside:
        endpoint.is_aside = True
        say(f"the mirror {endpoint.name} is not asked any more: {why}")


def _located(text: str, reference: Reference) -> tuple[Reference, bool]:
    """Where the mirror `[http://]HOST[:PORT][/PREFIX]` has what `reference` names, and whether in plain HTTP.

    Raises UsageError.
    """
    hint = "a mirror looks like mirror.example, 192.168.1.2:5000/prefix or http://nas.lan:5000"
    if "@" in text:  # a password, perhaps: it isn't shown
        raise UsageError("a mirror's address can't have credentials in it", hint)
    is_plain = text.startswith("http://")
    host, _, prefix = text.removeprefix("http://").removeprefix("https://").rstrip("/").partition("/")
    if not set(".:") & set(host) and host != "localhost":
        host += ":80" if is_plain else ":443"  # else it would be the first part of a name
    try:
        where = Reference.parse(
            f"{host}/{prefix}/{reference.repository}" if prefix else f"{host}/{reference.repository}"
        )
    except UsageError as error:
        raise UsageError(
            f"{printable(text)[:200]!r} is not a mirror: {error.message.rpartition(': ')[2]}", hint
        ) from None
    return replace(where, tag=reference.tag, digest=reference.digest), is_plain
