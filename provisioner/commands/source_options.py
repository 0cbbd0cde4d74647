"""Opens the source of an image by its name and by options: a registry with its mirrors, the cache alone, a file."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.catalogue import Catalogue, is_short
from provisioner.commands.archive_sources import (
    open_docker_archive,
    open_file_name,
    open_oci_archive,
    open_oci_layout,
    open_skopeo_directory,
    open_standard_input,
)
from provisioner.commands.file_sources import open_rootfs, open_url
from provisioner.commands.lxc_options import open_lxc
from provisioner.commands.moved_tag import report_moved_tag
from provisioner.commands.output import add_insecure_argument
from provisioner.commands.source_words import suggest_file
from provisioner.config import Config
from provisioner.errors import MachineError, NetworkError, UsageError
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform, host_platform
from provisioner.image.reference import DOCKER_HUB, Reference
from provisioner.image.source_name import (
    DockerArchive,
    FileName,
    Lxc,
    OciArchive,
    OciLayout,
    RegistryName,
    Rootfs,
    SkopeoDirectory,
    SourceName,
    StandardInput,
    Url,
)
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.image.lockfile import Lock
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.mirrors import MakeClient, Mirrors
    from provisioner.sources import Source
    from provisioner.store.blobs import BlobCache
    from provisioner.store.documents import CachingRegistry

HINT_LOCK = "lock this source: provision --lock FILE SOURCE DIR"


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
    add_file_arguments(parser)
    parser.add_argument("--no-cache", action="store_true", help="neither use the cache nor write to it")
    parser.add_argument(
        "--no-catalogue", action="store_true", help="don't look elsewhere for a short name that Docker Hub lacks"
    )
    parser.add_argument("--lock", metavar="FILE", help="write the digests that the image has now to FILE")
    parser.add_argument("--locked", metavar="FILE", help="provision exactly the image whose digests are in FILE")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about files, those of the cache and that which SOURCE names."""
    parser.add_argument("--offline", action="store_true", help="use the cache and files only; make no connection")
    parser.add_argument("--sha256", metavar="HEX", help="what the file that SOURCE names must be")


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source, whatever its name."""

    config: Config = field(default_factory=Config)
    insecure: bool = False
    """Whether plain HTTP and certificates that can't be verified are allowed."""
    mirrors: tuple[str, ...] = ()
    """Mirrors of the image's registry, asked before those of the environment and the configuration."""
    jobs: int = 4
    """Downloads at a time."""
    offline: bool = False
    """Whether no connection is made."""
    scratch: Path | None = None
    """A directory to use in place of the cache, whose content is deleted by whoever names it."""
    locked: Path | None = None
    """A lock file that names the image's digests."""
    short_name: str = ""
    """The name as the user wrote it, where the catalogue may have another source for it; else empty."""
    sha256: Digest | None = None
    """What the file that the source is in must have."""

    @classmethod
    def of(cls, arguments: argparse.Namespace, config: Config) -> SourceOptions:
        """Return the options of a command line, without `scratch`. Raises UsageError for those that contradict."""
        _check_options(arguments)
        locked = getattr(arguments, "locked", None)
        text = getattr(arguments, "source", "")
        return cls(
            config,
            arguments.insecure,
            tuple(arguments.mirror),
            getattr(arguments, "jobs", None) or config.jobs,
            getattr(arguments, "offline", False),
            locked=Path(locked) if locked else None,
            short_name=text if is_short(text) and not getattr(arguments, "no_catalogue", True) else "",
            sha256=_sha256(getattr(arguments, "sha256", None)),
        )


@dataclass(frozen=True)
class Opening:
    """What an opener of OPENERS works with."""

    options: SourceOptions
    console: Console
    stack: ExitStack
    """Closes what was opened, at the end of the run."""

    def cache(self) -> BlobCache:
        """Return the cache, or the directory in its place; call it once. At the end it is pruned to its limit."""
        from provisioner.store.blobs import BlobCache, TemporaryBlobCache
        from provisioner.store.prune import cache_directory, in_use

        if self.options.scratch:
            return TemporaryBlobCache(self.options.scratch)
        cache = BlobCache(cache_directory(), self.console.step)
        self.console.detail(f"cache: {printable(str(cache.files.path))}")
        self.stack.callback(_prune_to_limit, cache.files.path, self.options.config.cache_limit, self.console)
        self.stack.enter_context(in_use(cache.files))
        with suppress(MachineError):  # no reason to fail
            cache.delete_abandoned()
        return cache

    def lock(self, reference: str) -> Lock | None:
        """Return the lock of `--locked`, None without. Raises UsageError, also for the lock of another source."""
        from provisioner.image.lockfile import Lock

        return Lock.read(self.options.locked, reference) if self.options.locked else None

    def locks(self, word: str) -> tuple[Lock, ...]:
        """Return the locks of `--locked` for a file of this machine: only their digests count, wherever it is.

        Raises UsageError.
        """
        from provisioner.image.lockfile import Lock

        return Lock.read_all(self.options.locked, word) if self.options.locked else ()

    def expected_digests(self, locks: Sequence[Lock], *, is_rootfs: bool = False) -> tuple[tuple[Digest, ...], str]:
        """Return what a file may be by --sha256 or by one of the locks, and who says so. Raises UsageError.

        The lock of an image says nothing of the file that the image is in; it is no lock of a root file system.
        """
        given = self.options.sha256
        locked = tuple(lock.digest for lock in locks if (lock.digest,) in lock.layers.values())
        if is_rootfs and locks and not locked:
            raise UsageError(f"{printable(str(self.options.locked))} is no lock of a root file system", HINT_LOCK)
        if locked and given and given not in locked:
            raise UsageError("--sha256 and the lock contradict each other", "leave out one of them")
        if given:
            return (given,), "--sha256"
        return (locked, "the lock") if locked else ((), "")


@contextmanager
def open_source(name: SourceName, options: SourceOptions, console: Console) -> Iterator[Source]:
    """Yield the source that `name` names, and prune the cache to its limit afterwards. Raises ProvisionError."""
    if options.sha256 and isinstance(name, RegistryName | OciLayout | SkopeoDirectory | Lxc):
        raise is_no_file(str(name))
    with ExitStack() as stack:
        opening = Opening(options, console, stack)
        source = _opened(name, opening)
        yield _with_catalogue(source, opening) if options.short_name else source


def is_no_file(name: str) -> UsageError:
    """Return the error for --sha256 with a source that is no file."""
    hint = "pin an image: NAME@sha256:DIGEST, or --locked"
    return UsageError(f"--sha256 is for files, and {printable(name)} is none", hint)


def _opened(name: SourceName, opening: Opening) -> Source:
    """Return the source that `name` names. What interrupts the run then says how much of a download is kept."""
    from provisioner.sources.layer_downloads import LayerDownloads

    source: Source = OPENERS[type(name)](name, opening)
    if isinstance(source, LayerDownloads):
        opening.stack.enter_context(source.interrupts_noted())
    return source


def _with_catalogue(source: Source, opening: Opening) -> Source:
    """Return a source that leads to the catalogue's one where there is no image for the platform."""
    from provisioner.sources.fallback import FallbackSource

    def find(platform: Platform) -> Source | None:
        name = catalogue_name(opening.options, platform)
        if name is None:
            return None
        has_same_mirrors = isinstance(name, RegistryName) and name.reference.registry == DOCKER_HUB
        options = opening.options if has_same_mirrors else replace(opening.options, mirrors=())
        return _opened(name, replace(opening, options=options))

    return FallbackSource(source, find, "the catalogue", "--no-catalogue leaves it out")


def catalogue_name(options: SourceOptions, platform: Platform) -> SourceName | None:
    """Return what the catalogue, the user's own first, has for the short name of `options`; None for nothing."""
    if not options.short_name:
        return None
    own = options.config.catalogue.find(options.short_name, platform)
    return own or Catalogue.packaged().find(options.short_name, platform)


def _open_registry(name: RegistryName, opening: Opening) -> Source:
    """Return the image of a registry; with `--offline`, what the cache has of it."""
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
    ask_tag = None
    if lock and reference.tag and not reference.digest:
        moved = report_moved_tag(lock, client(reference, False), reference, opening.console)
        ask_tag = opening.stack.enter_context(moved)
    opening.stack.enter_context(suggested_names(reference, client))
    opening.stack.enter_context(_suggest_mirrors(reference))
    registry = CachingRegistry(reference, with_mirrors(reference, options, client, opening.console), cache, known_tags)
    return RegistrySource(reference, registry, cache, options.jobs, lock, ask_tag)


@contextmanager
def suggested_names(reference: Reference, client: MakeClient) -> Iterator[None]:
    """Where the block doesn't find an image, say whether its repository is there, and what else may be meant."""
    from provisioner.registry.hub import suggest_similar_names
    from provisioner.registry.tags import tell_missing_repository

    with suggest_file(reference), suggest_similar_names(reference):
        if reference.registry == DOCKER_HUB:  # it says itself that there is no repository
            yield
            return
        with tell_missing_repository(client(reference, False).tags_page):
            yield


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


OPENERS: Mapping[type[Any], Callable[[Any, Opening], Source]] = {
    RegistryName: _open_registry,
    DockerArchive: open_docker_archive,
    OciArchive: open_oci_archive,
    OciLayout: open_oci_layout,
    SkopeoDirectory: open_skopeo_directory,
    FileName: open_file_name,
    StandardInput: open_standard_input,
    Lxc: open_lxc,
    Rootfs: open_rootfs,
    Url: open_url,
}
"""For each kind of SourceName the function that returns its source."""


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


def usual_platform(arguments: argparse.Namespace, config: Config) -> Platform:
    """Return the platform by the options, else the configuration's, else this machine's.

    Raises UsageError, MachineError.
    """
    return Platform.parse(arguments.platform) if arguments.platform else config.platform or host_platform()


def platform_reason(arguments: argparse.Namespace, config: Config) -> str:
    """Return why `usual_platform` returns what it does."""
    return "by --platform" if arguments.platform else "by config.toml" if config.platform else "this machine's"


def caching_registry(
    reference: Reference, options: SourceOptions, console: Console, connections: int = 4
) -> CachingRegistry:
    """Return the registry of `reference` with the cache, for commands that need no layers. Raises UsageError."""
    from provisioner.store.blobs import BlobCache
    from provisioner.store.documents import CachingRegistry
    from provisioner.store.prune import cache_directory

    registry = with_mirrors(reference, options, client_factory(options, connections, console), console)
    return CachingRegistry(reference, registry, BlobCache(cache_directory(), console.step))


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


def _sha256(text: str | None) -> Digest | None:
    """Return the digest of --sha256. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:sha256:)?([0-9a-fA-F]{64})", text.strip())
    if not match:
        hint = "give its 64 hexadecimal digits, as sha256sum prints them"
        raise UsageError(f"--sha256 {printable(text[:100])!r} is no SHA-256", hint)
    return Digest("sha256", match[1].lower())


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other or lack a value; a command may lack some of them."""
    for name in ("lock", "locked", "stamp", "stamp_if_changed"):
        if getattr(arguments, name, None) in ("", "-"):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} needs the name of a file", f"give a name: {option} FILE")
    for one, other in (("offline", "no_cache"), ("lock", "locked")):
        if getattr(arguments, one, None) and getattr(arguments, other, None):
            names = f"--{one} and --{other.replace('_', '-')}"
            raise UsageError(f"{names} contradict each other", "leave out one of them")
