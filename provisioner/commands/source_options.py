"""Makes an image's source by the options: a registry with mirrors and the cache, the cache alone, or a lock."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.output import add_insecure_argument
from provisioner.config import Config
from provisioner.errors import MachineError, ProvisionError, UsageError
from provisioner.image.platform import Platform, host_platform
from provisioner.image.reference import Reference
from provisioner.sizes import size_text
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.image.lockfile import Lock
    from provisioner.image.manifest import Descriptor
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.mirrors import MakeClient, Mirrors
    from provisioner.sources.registry import RegistrySource
    from provisioner.store.documents import CachingRegistry, Registry

_MOVED_SECONDS = 3.0
"""How long a run with --locked waits at its end for the digest that the tag has now."""


def add_registry_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about registries and the platform."""
    parser.add_argument("--platform", metavar="P", help="linux/arm64, linux/arm/v7, …; default: this machine's")
    parser.add_argument(
        "--mirror",
        metavar="HOST",
        action="append",
        default=[],
        help="a mirror of the image's registry, asked first; repeatable",
    )
    add_insecure_argument(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about the cache and locks."""
    parser.add_argument("--offline", action="store_true", help="use the cache only; make no connection")
    parser.add_argument("--no-cache", action="store_true", help="neither use the cache nor write to it")
    parser.add_argument("--lock", metavar="FILE", help="write the digests that IMAGE has now to FILE")
    parser.add_argument("--locked", metavar="FILE", help="provision exactly the image whose digests are in FILE")


@dataclass(frozen=True)
class SourceSettings:
    """An image, and what its source is made of."""

    reference: Reference
    registry: Registry
    """The registry with its mirrors and retries."""
    origin: RegistryClient
    """The registry alone, for the one request that asks whether a locked tag has moved."""
    jobs: int
    """Downloads at a time."""
    scratch: Path
    """The directory that `--no-cache` uses in place of the cache."""
    cache_limit: int | None
    """Bytes to which the cache is pruned afterwards; None for no limit."""


@contextmanager
def open_source(settings: SourceSettings, arguments: argparse.Namespace, console: Console) -> Iterator[RegistrySource]:
    """Yield the source of an image, and prune the cache to its limit afterwards. Raises UsageError."""
    from provisioner.image.lockfile import Lock
    from provisioner.sources.offline import OfflineSource
    from provisioner.sources.registry import RegistrySource
    from provisioner.store.blobs import BlobCache, TemporaryBlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.known_tags import KnownTags
    from provisioner.store.prune import cache_directory, in_use

    _check_options(arguments)
    reference = settings.reference
    lock = Lock.read(Path(arguments.locked), reference) if arguments.locked else None
    directory = settings.scratch if arguments.no_cache else cache_directory()
    cache = TemporaryBlobCache(directory) if arguments.no_cache else BlobCache(directory)
    known_tags = KnownTags(directory)
    with ExitStack() as stack:
        if lock and not arguments.offline and reference.tag and not reference.digest:
            stack.enter_context(_report_moved_tag(lock, settings.origin, reference, console))
        if not arguments.no_cache:
            stack.callback(_prune_to_limit, directory, settings.cache_limit, console)
            stack.enter_context(in_use(directory))
        if arguments.offline:
            yield OfflineSource(reference, cache, known_tags, settings.jobs, lock)
        else:
            registry = CachingRegistry(reference, settings.registry, cache, known_tags)
            yield RegistrySource(reference, registry, cache, settings.jobs, lock)


def client_factory(arguments: argparse.Namespace, config: Config, connections: int) -> MakeClient:
    """Return a function that makes the client of a registry or mirror, by the options and the configuration."""
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.credentials import Credentials

    credentials = Credentials.of_environment()

    def client(where: Reference, plain: bool) -> RegistryClient:
        insecure = arguments.insecure or plain or config.is_insecure(where.registry)
        return RegistryClient(where, insecure=insecure, connections=connections, credentials=credentials)

    return client


def with_mirrors(
    reference: Reference, arguments: argparse.Namespace, config: Config, client: MakeClient, console: Console
) -> Mirrors:
    """Return the registry of `reference` with its mirrors by the options, `$PROVISION_MIRRORS` and the configuration.

    Raises UsageError.
    """
    from provisioner.registry.mirrors import Mirrors

    others = (*mirrors(arguments.mirror), *config.mirrors_for(reference.registry))
    return Mirrors(reference, others, client, console.step)


def mirrors(options: Sequence[str]) -> tuple[str, ...]:
    """Return the mirrors of `--mirror` options, and then those of `$PROVISION_MIRRORS`, divided by spaces or commas."""
    return (*options, *os.environ.get("PROVISION_MIRRORS", "").replace(",", " ").split())


def usual_platform(arguments: argparse.Namespace, config: Config) -> Platform:
    """Return the platform by the options, else the configuration's, else this machine's.

    Raises UsageError, MachineError.
    """
    return Platform.parse(arguments.platform) if arguments.platform else config.platform or host_platform()


def caching_registry(
    reference: Reference, arguments: argparse.Namespace, config: Config, console: Console, connections: int = 4
) -> CachingRegistry:
    """Return the registry of `reference` with the cache, for commands that need no layers. Raises UsageError."""
    from provisioner.store.blobs import BlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.prune import cache_directory

    registry = with_mirrors(reference, arguments, config, client_factory(arguments, config, connections), console)
    return CachingRegistry(reference, registry, BlobCache(cache_directory()))


def _prune_to_limit(directory: Path, limit: int | None, console: Console) -> None:
    """Prune the cache to its limit, whether the run succeeded or not."""
    from provisioner.store.prune import prune, total_size

    if limit is None:
        return
    try:
        removed = prune(directory, limit)
    except MachineError as error:  # no reason to fail
        console.step(f"the cache stays above its limit: {error.message}")
        return
    if removed:
        console.step(f"removed {size_text(total_size(removed))} from the cache, to keep its limit")


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other or lack a value."""
    if empty := next((name for name in ("lock", "locked") if getattr(arguments, name) == ""), ""):
        raise UsageError(f"--{empty} needs the name of a file", f"give a name: --{empty} FILE")
    for one, other in (("offline", "no_cache"), ("lock", "locked")):
        if getattr(arguments, one) and getattr(arguments, other):
            names = f"--{one} and --{other.replace('_', '-')}"
            raise UsageError(f"{names} contradict each other", "leave out one of them")


@contextmanager
def _report_moved_tag(lock: Lock, client: RegistryClient, reference: Reference, console: Console) -> Iterator[None]:
    """Ask the registry in a thread which digest the tag has, and in the end show it where it isn't the locked one."""
    now: list[Descriptor] = []

    def ask() -> None:
        with suppress(ProvisionError):  # the run itself doesn't need the answer
            now.append(client.resolve(reference.selector))

    thread = threading.Thread(target=ask, name="moved", daemon=True)
    thread.start()
    yield
    thread.join(_MOVED_SECONDS)
    if now and now[0].digest != lock.digest:
        moved = f"{reference.familiar} has moved since {lock.locked:%Y-%m-%d}"
        console.step(f"{moved}: it is {now[0].digest!s:.19} now, and locked at {lock.digest!s:.19}")
