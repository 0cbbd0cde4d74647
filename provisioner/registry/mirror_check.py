"""Trying out mirrors: whether they answer, how fast one blob comes, whether it is the right one, and rate limits."""

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
"""How long a document may take, and how long a server may send nothing of a blob."""
BLOB_SECONDS = 10.0
"""How long a blob is read for the speed."""
_JOBS = 16

Found = TypeVar("Found")


@dataclass(frozen=True)
class Outcome:
    """What came of trying one server."""

    problem: str = ""
    """Why it can't be used; empty where it can."""
    speed: float | None = None
    """Bytes a second, with the time to the first one."""
    is_verified: bool = False
    """Whether the whole blob came and is the right one. A slow one is not waited for."""
    limit: RateLimit | None = None
    """How many requests are allowed, where it says so."""


class Server(Protocol[Found]):
    """A server to try: an origin or a mirror of it. Methods raise ProvisionError."""

    def ping(self) -> None:
        """Ask for something small."""

    def look(self) -> Found:
        """Return what one can find there without knowing any digest."""

    def fetch(self, found: Found) -> tuple[Descriptor, Generator[bytes, None, None]]:
        """Return one blob of what was found, here or at another server, and its bytes."""

    @property
    def limit(self) -> RateLimit | None:
        """Return the rate limit that its last answer named."""


def try_servers(servers: Sequence[Server[Found]], done: Callable[[int], None]) -> list[Outcome]:
    """Return what came of trying each server; the first is the origin.

    All are asked at a time whether they answer, and then one after the other for a blob that the first of those that
    answer names. `done` is called with the number of servers that are done.
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
    """Return the message of the error that a request raises, empty where it raises none."""
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
        with closing(chunks), closing(_verified(chunks, descriptor)) as checked:
            for chunk in checked:
                count += len(chunk)
                if time.monotonic() - began > BLOB_SECONDS:
                    break
            else:
                is_verified = True
    except ProvisionError as error:
        return Outcome(error.message, limit=server.limit)
    return Outcome("", count / max(time.monotonic() - began, 1e-6), is_verified, server.limit)


def _verified(chunks: Iterator[bytes], descriptor: Descriptor) -> Generator[bytes, None, None]:
    yield from verified_chunks(chunks, descriptor.digest, descriptor.size, f"blob {descriptor.digest.short}")


@dataclass(frozen=True)
class RegistryServer:
    """A registry, with the client for a repository that has a small image with the tag `latest`."""

    client: RegistryClient

    def ping(self) -> None:
        """Ask what the tag names."""
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
        """Return the rate limit that its last answer named."""
        return self.client.limit


@dataclass(frozen=True)
class ImageServer:
    """An LXC image server."""

    server: LxcServer

    def ping(self) -> None:
        """Ask for the index."""
        self.server.ping()

    def look(self) -> tuple[str, Descriptor]:
        """Return the path of the smallest root file system that has been there for a while, and what it is."""
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
        """Return None: these servers name none."""
        return None
