"""Tests mirrors: whether they answer, the speed of one blob, whether it is verified, and rate limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from provisioner.errors import MalformedImage, NotFound, ProvisionError
from provisioner.image.digest import verified_chunks
from provisioner.image.manifest import INDEX_TYPES, Descriptor, Index, Manifest
from provisioner.registry.client import RegistryClient
from provisioner.registry.limits import RateLimit
from provisioner.registry.lxc_server import LxcServer
from provisioner.registry.parallel import in_parallel

ANSWER_SECONDS = 10.0
"""The time limit for a document, and for a silence of the server during a blob."""
BLOB_SECONDS = 10.0
"""The longest time for which a blob is read to measure the speed."""
_JOBS = 16

Found = TypeVar("Found")


@dataclass(frozen=True)
class Outcome:
    """The result of testing one server."""

    problem: str = ""
    """Why it can't be used; empty if it can."""
    speed: float | None = None
    """Bytes a second, including the time until the first byte."""
    is_verified: bool = False
    """Whether the whole blob arrived and has its digest. Slow downloads are stopped before their end."""
    limit: RateLimit | None = None
    """The server's rate limit, if it states one."""


class Server(Protocol[Found]):
    """A server to test: an origin or a mirror of it. Methods raise ProvisionError."""

    def ping(self) -> None:
        """Request a small document."""

    def look(self) -> Found:
        """Return an image that can be found without knowing a digest."""

    def fetch(self, found: Found) -> tuple[Descriptor, Generator[bytes, None, None]]:
        """Return the descriptor and the bytes of one blob of the image `found`, which this or another server has
        found."""

    @property
    def limit(self) -> RateLimit | None:
        """Return the rate limit in its last answer, if any."""


def try_servers(servers: Sequence[Server[Found]], done: Callable[[int], None]) -> list[Outcome]:
    """Return the result of testing each server; the first is the origin.

    First all are pinged at the same time. Then each one that answers sends the same blob, one after the other; the
    first of them chooses the image. `done` is called with 1 for each server that is done.
    """
    problems = list(in_parallel(_problem_of, [server.ping for server in servers], _JOBS))
    found, outcomes = None, []
    for server, problem in zip(servers, problems, strict=True):
        if not problem and found is None:
            try:
                found = server.look()
            except ProvisionError as error:
                problem = error.message
        if problem or found is None:
            outcomes.append(Outcome(problem))
        else:
            outcomes.append(_measure(server, found))
        done(1)
    return outcomes


def _problem_of(request: Callable[[], None]) -> str:
    """Return the message of the error that a request raises; empty if it raises none."""
    try:
        request()
    except ProvisionError as error:
        return error.message
    return ""


def _measure(server: Server[Found], found: Found) -> Outcome:
    """Return how fast a blob comes from a server, and whether it is the right one."""
    began, count, is_verified = time.monotonic(), 0, False
    try:
        descriptor, chunks = server.fetch(found)
        with closing(chunks), closing(_verify_chunks(chunks, descriptor)) as checked:
            for chunk in checked:
                count += len(chunk)
                if time.monotonic() - began > BLOB_SECONDS:
                    break
            else:
                is_verified = True
    except ProvisionError as error:
        return Outcome(error.message, limit=server.limit)
    return Outcome("", count / max(time.monotonic() - began, 1e-6), is_verified, server.limit)


def _verify_chunks(chunks: Iterator[bytes], descriptor: Descriptor) -> Generator[bytes, None, None]:
    yield from verified_chunks(chunks, descriptor.digest, descriptor.size, f"blob {descriptor.digest.short}")


@dataclass(frozen=True)
class RegistryServer:
    """A registry, with the client for a repository that has a small image with the tag `latest`."""

    client: RegistryClient

    def ping(self) -> None:
        """Resolve the tag."""
        self.look()

    def look(self) -> Descriptor:
        """Return the descriptor of the tag."""
        return self.client.resolve("latest")

    def fetch(self, found: Descriptor) -> tuple[Descriptor, Generator[bytes, None, None]]:
        """Return the largest layer of the first manifest, and its bytes."""
        document = self.client.manifest(found)
        if document.media_type in INDEX_TYPES:
            manifests = Index.from_json(document.data).manifests
            if not manifests:
                raise MalformedImage("the index is empty")
            document = self.client.manifest(manifests[0])
        layers = Manifest.from_json(document.data).layers
        if not layers:
            raise MalformedImage("the image has no layers")
        largest = max(layers, key=lambda layer: layer.size)
        return largest, self.client.blob(largest)

    @property
    def limit(self) -> RateLimit | None:
        """Return the rate limit in its last answer, if any."""
        return self.client.limit


@dataclass(frozen=True)
class ImageServer:
    """An LXC image server."""

    server: LxcServer

    def ping(self) -> None:
        """Ask for the index."""
        self.server.ping()

    def look(self) -> tuple[str, Descriptor]:
        """Return path and descriptor of the smallest of the products' oldest root file systems, which mirrors have
        too."""
        builds = [product.oldest for product in self.server.products().products]
        smallest = min(filter(None, builds), key=lambda build: build.size, default=None)
        if smallest is None:
            raise NotFound(f"{self.server.address.host} has no root file system")
        return smallest.path, smallest.descriptor

    def fetch(self, found: tuple[str, Descriptor]) -> tuple[Descriptor, Generator[bytes, None, None]]:
        """Return this file and its bytes."""
        path, descriptor = found
        return descriptor, self.server.file(path, descriptor, 0)

    @property
    def limit(self) -> None:
        """Return None: these servers state no limit."""
        return None
