"""Images of registries: a registry with its mirrors and the cache, or with --offline the cache alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provisioner.commands.outdated_locks import report_moved_tag
from provisioner.commands.source_options import SourceOptions
from provisioner.commands.source_words import suggest_file
from provisioner.errors import NetworkError
from provisioner.image.reference import DOCKER_HUB, Reference
from provisioner.image.source_name import RegistryName
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.commands.opening import Opening
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.mirrors import MakeClient, Mirrors
    from provisioner.sources import Source
    from provisioner.store.documents import CachingRegistry


def open_registry(name: RegistryName, opening: Opening) -> Source:
    """Return the image of a registry; with `--offline`, what the cache has of it."""
    from provisioner.registry.hub import suggest_similar_names
    from provisioner.sources.offline import OfflineSource
    from provisioner.sources.registry import RegistrySource
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.known_tags import KnownTags

    reference, options = name.reference, opening.options
    lock = opening.lock(str(reference))
    cache = opening.cache()
    known_tags = KnownTags(cache.files)
    if options.offline:
        return OfflineSource(reference, cache, known_tags, options.jobs, lock)
    client = client_factory(options, options.jobs, opening.console)
    if lock and reference.tag and not reference.digest:
        opening.stack.enter_context(report_moved_tag(lock, client(reference, False), reference, opening.console))
    opening.stack.enter_context(suggest_file(reference))
    opening.stack.enter_context(suggest_similar_names(reference))
    opening.stack.enter_context(_suggest_mirrors(reference))
    registry = CachingRegistry(reference, with_mirrors(reference, options, client, opening.console), cache, known_tags)
    return RegistrySource(reference, registry, cache, options.jobs, lock)


@contextmanager
def _suggest_mirrors(reference: Reference) -> Iterator[None]:
    """Where the block raises NetworkError for an image of Docker Hub, add to its hint how to find a mirror."""
    from provisioner.registry.lxc_server import TRY_MIRRORS

    try:
        yield
    except NetworkError as error:
        if reference.registry == DOCKER_HUB:
            error.hint = f"{error.hint}; {TRY_MIRRORS}"
        raise


def client_factory(options: SourceOptions, connections: int, console: Console) -> MakeClient:
    """Return a function that makes the client of a registry or mirror, by the options and the configuration."""
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.credentials import Credentials

    credentials = Credentials.of_environment()

    def make_client(reference: Reference, is_plain: bool) -> RegistryClient:
        insecure = options.insecure or is_plain or options.config.is_insecure(reference.registry)
        return RegistryClient(
            reference, insecure=insecure, connections=connections, credentials=credentials, warn=console.warn
        )

    return make_client


def with_mirrors(reference: Reference, options: SourceOptions, client: MakeClient, console: Console) -> Mirrors:
    """Return the registry of `reference` with its mirrors by the options, `$PROVISION_MIRRORS` and the configuration.

    Raises UsageError.
    """
    from provisioner.registry.mirrors import Mirrors

    others = (*options.mirrors, *environment_mirrors(), *options.config.mirrors_for(reference.registry))
    return Mirrors(reference, others, client, console.step)


def environment_mirrors() -> list[str]:
    """Return the mirrors of `$PROVISION_MIRRORS`, divided by spaces or commas."""
    return os.environ.get("PROVISION_MIRRORS", "").replace(",", " ").split()


def caching_registry(
    reference: Reference, options: SourceOptions, console: Console, connections: int = 4
) -> CachingRegistry:
    """Return the registry of `reference` with the cache, for commands that need no layers. Raises UsageError."""
    from provisioner.store.blobs import BlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.prune import cache_directory

    registry = with_mirrors(reference, options, client_factory(options, connections, console), console)
    return CachingRegistry(reference, registry, BlobCache(cache_directory(), console.step))
