"""From the options about where an image comes from to its source: registry, mirrors, cache, lock, or no network."""

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
"""How long the end of a run by a lock waits for the registry to say whether the tag has moved."""


def add_registry_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about whom to ask, and for which platform."""
    parser.add_argument("--platform", metavar="P", help="linux/arm64, linux/arm/v7, …; default: this machine's")
    parser.add_argument(
        "--mirror", metavar="HOST", action="append", default=[], help="where else the image's content is; repeatable"
    )
    add_insecure_argument(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about where an image comes from."""
    parser.add_argument("--offline", action="store_true", help="use only what is in the cache, and ask nobody")
    parser.add_argument("--no-cache", action="store_true", help="use no cache, and leave nothing in it")
    parser.add_argument("--lock", metavar="FILE", help="write down exactly what IMAGE is now")
    parser.add_argument("--locked", metavar="FILE", help="get exactly what such a file says")


@dataclass(frozen=True)
class Opening:
    """What is asked for, and how to get at it.

    `registry` has mirrors and tries again, `origin` is asked once; `scratch` is where `--no-cache` keeps what it needs
    meanwhile.
    """

    reference: Reference
    registry: Registry
    origin: RegistryClient
    jobs: int
    scratch: Path
    cache_limit: int | None


@contextmanager
def opened(opening: Opening, arguments: argparse.Namespace, console: Console) -> Iterator[RegistrySource]:
    """The source, while it is in use; afterwards the cache is brought below its limit. Raises UsageError."""
    from provisioner.image.lockfile import Lock
    from provisioner.sources.offline import OfflineSource
    from provisioner.sources.registry import RegistrySource
    from provisioner.store.blobs import BlobCache, TemporaryBlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.known_tags import KnownTags
    from provisioner.store.prune import cache_directory, in_use

    _check(arguments)
    reference = opening.reference
    lock = Lock.read(Path(arguments.locked), reference) if arguments.locked else None
    directory = opening.scratch if arguments.no_cache else cache_directory()
    cache = TemporaryBlobCache(directory) if arguments.no_cache else BlobCache(directory)
    known_tags = KnownTags(directory)
    with ExitStack() as stack:
        if lock and not arguments.offline and reference.tag and not reference.digest:
            stack.enter_context(_watching(lock, opening.origin, reference, console))
        if not arguments.no_cache:
            stack.callback(_keep_limit, directory, opening.cache_limit, console)
            stack.enter_context(in_use(directory))
        if arguments.offline:
            yield OfflineSource(reference, cache, known_tags, opening.jobs, lock)
        else:
            registry = CachingRegistry(reference, opening.registry, cache, known_tags)
            yield RegistrySource(reference, registry, cache, opening.jobs, lock)


def clients(arguments: argparse.Namespace, config: Config, connections: int) -> MakeClient:
    """What makes a client for a registry or a mirror, by the options and the configuration."""
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.credentials import Credentials

    credentials = Credentials.of_environment()

    def client(where: Reference, plain: bool) -> RegistryClient:
        insecure = arguments.insecure or plain or config.is_insecure(where.registry)
        return RegistryClient(where, insecure=insecure, connections=connections, credentials=credentials)

    return client


def mirrored(
    reference: Reference, arguments: argparse.Namespace, config: Config, client: MakeClient, console: Console
) -> Mirrors:
    """The registry of `reference` and all its mirrors: of the options, the environment, the configuration.

    Raises UsageError.
    """
    from provisioner.registry.mirrors import Mirrors

    others = (*mirrors(arguments.mirror), *config.mirrors_for(reference.registry))
    return Mirrors(reference, others, client, console.step)


def mirrors(given: Sequence[str]) -> tuple[str, ...]:
    """The mirrors that were `given`, then those of `$PROVISION_MIRRORS`, which parts them by spaces or commas."""
    return (*given, *os.environ.get("PROVISION_MIRRORS", "").replace(",", " ").split())


def usual_platform(arguments: argparse.Namespace, config: Config) -> Platform:
    """The platform of the options, else of the configuration, else this machine's. Raises UsageError, MachineError."""
    return Platform.parse(arguments.platform) if arguments.platform else config.platform or host_platform()


def caching_registry(
    reference: Reference, arguments: argparse.Namespace, config: Config, console: Console, connections: int = 4
) -> CachingRegistry:
    """Return the registry of `reference` with the cache, for commands that need no layers. Raises UsageError."""
    from provisioner.store.blobs import BlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.prune import cache_directory

    registry = mirrored(reference, arguments, config, clients(arguments, config, connections), console)
    return CachingRegistry(reference, registry, BlobCache(cache_directory()))


def _keep_limit(directory: Path, limit: int | None, console: Console) -> None:
    """Bring the cache below its limit, whatever became of the run."""
    from provisioner.store.prune import prune, total_size

    if limit is None:
        return
    try:
        taken = prune(directory, limit)
    except MachineError as error:  # that is no reason to fail
        console.step(f"the cache stays above its limit: {error.message}")
        return
    if taken:
        console.step(f"took {size_text(total_size(taken))} out of the cache, to keep its limit")


def _check(arguments: argparse.Namespace) -> None:
    if empty := next((name for name in ("lock", "locked") if getattr(arguments, name) == ""), ""):
        raise UsageError(f"--{empty} needs the name of a file", f"give it: --{empty} FILE")
    for one, other in (("offline", "no_cache"), ("lock", "locked")):
        if getattr(arguments, one) and getattr(arguments, other):
            names = f"--{one} and --{other.replace('_', '-')}"
            raise UsageError(f"{names} contradict each other", "leave out one of them")


@contextmanager
def _watching(lock: Lock, client: RegistryClient, reference: Reference, console: Console) -> Iterator[None]:
    """Ask what the tag names now, beside the work, and in the end say so where that isn't what is locked."""
    now: list[Descriptor] = []

    def ask() -> None:
        with suppress(ProvisionError):  # without a registry nothing can be said, and nothing is needed
            now.append(client.resolve(reference.selector))

    thread = threading.Thread(target=ask, name="moved", daemon=True)
    thread.start()
    yield
    thread.join(_MOVED_SECONDS)
    if now and now[0].digest != lock.digest:
        moved = f"{reference.familiar} has moved since {lock.locked:%Y-%m-%d}"
        console.step(f"{moved}: it is {now[0].digest!s:.19} now, and locked at {lock.digest!s:.19}")
