"""A registry with its mirrors, as one client with retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from provisioner.errors import UsageError
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import Document, RegistryClient
from provisioner.registry.endpoints import Endpoint, Endpoints
from provisioner.registry.retry import Timing
from provisioner.terminal.escaping import printable

MakeClient = Callable[[Reference, bool], RegistryClient]
"""Makes the client for a reference. The second argument says whether plain HTTP to its registry is allowed."""

_Answer = TypeVar("_Answer")


class Mirrors:
    """The registry of `reference` and its `mirrors`, addresses as users type them. Thread-safe.

    A tag is resolved by the registry itself, and by a mirror only if the registry can't be reached. Content with a
    digest comes from the first endpoint that answers, mirrors first (see Endpoints). `say` is called with one line for
    each retry and each change of endpoint. Raises UsageError for a malformed mirror; methods raise ProvisionError when
    no endpoint is left to ask, or there is no progress.
    """

    def __init__(
        self,
        reference: Reference,
        mirrors: Sequence[str],
        client: MakeClient,
        say: Callable[[str], None] = lambda line: None,
        timing: Timing | None = None,
    ) -> None:
        origin = Endpoint(client(reference, False), reference.registry, is_origin=True)
        located = [locate_mirror(text, reference) for text in dict.fromkeys(mirrors)]
        others = [Endpoint(client(where, plain), where.registry, is_origin=False) for where, plain in located]
        self._endpoints = Endpoints(origin, others, say, timing)

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest of a tag or a digest (see RegistryClient)."""
        return self._document(selector, lambda client: client.manifest(selector))

    def resolve(self, selector: str) -> Descriptor:
        """Return the descriptor of a tag or a digest (see RegistryClient)."""
        return self._document(selector, lambda client: client.resolve(selector))

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags and its Link header (see RegistryClient)."""
        return self._endpoints.ask(lambda client: client.tags_page(query), "the list of tags")

    def _document(self, selector: str | Descriptor, request: Callable[[RegistryClient], _Answer]) -> _Answer:
        is_tag = isinstance(selector, str) and ":" not in selector
        return self._endpoints.ask(request, f"tag {selector!r}" if is_tag else "")

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` on, not verified, from as many endpoints as needed.

        An empty chunk follows each failure, so that the reader can stop there.
        """
        return self._endpoints.blob(descriptor, start, lambda client, at: client.blob(descriptor, at))

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Exclude the mirrors that sent parts of a corrupt blob, and return whether to try again (see Endpoints)."""
        return self._endpoints.report_corrupt(descriptor)


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
