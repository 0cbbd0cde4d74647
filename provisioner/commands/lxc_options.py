"""The LXC image server of the configuration, with its mirrors, by options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from provisioner.errors import MachineError, ProvisionError
from provisioner.image.server_address import ServerAddress
from provisioner.image.source_name import Lxc
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.commands.source_options import Opening, SourceOptions
    from provisioner.image.simplestreams import Products
    from provisioner.registry.lxc_server import LxcImages
    from provisioner.sources import Source
    from provisioner.sources.lxc import LxcSource
    from provisioner.store.blobs import BlobCache


_LIST_SECONDS = 3.0
"""How long a run with --locked waits at its end for the list of now."""


def lxc_images(options: SourceOptions, console: Console, cache: BlobCache | None = None) -> LxcImages:
    """Return the LXC image server with the mirrors of `--mirror` and then those of the configuration.

    Lists are kept in `cache`, by default the usual one. Raises UsageError.
    """
    from provisioner.registry.lxc_server import LxcImages, LxcServer
    from provisioner.store.blobs import BlobCache
    from provisioner.store.known_lists import KnownLists
    from provisioner.store.prune import cache_directory

    known = None
    with suppress(MachineError):  # a user without a home directory has no cache
        known = KnownLists(cache or BlobCache(cache_directory(), console.step))

    def client(text: str) -> LxcServer:
        address = ServerAddress.parse(text)
        insecure = options.insecure or options.config.is_insecure(address.host)
        return LxcServer(address, insecure=insecure, connections=options.jobs, known=known)

    servers = options.config.lxc
    mirrors = dict.fromkeys((*options.mirrors, *servers.mirrors))
    return LxcImages(client(servers.server), [client(text) for text in mirrors], console.step)


def open_lxc(name: Lxc, opening: Opening) -> Source:
    """Return the image of an LXC image server; with `--offline`, what the cache has of it."""
    from provisioner.sources.lxc import LxcSource
    from provisioner.store.known_tags import KnownTags

    lock = opening.lock(str(name))
    cache = opening.cache()
    images = None if opening.options.offline else lxc_images(opening.options, opening.console, cache)
    source = LxcSource(name, images, cache, KnownTags(cache.files), lock)
    if lock and images:
        asked = lxc_images(opening.options, Console(quiet=True), cache)
        opening.stack.enter_context(_report_newer_build(source, asked, opening.console))
    return source


@contextmanager
def _report_newer_build(source: LxcSource, images: LxcImages, console: Console) -> Iterator[None]:
    """Ask for the list in a thread, and say in the end where it has a newer build than the locked one."""
    from provisioner.threads import BackgroundThread

    listed: list[Products] = []

    def ask() -> None:
        with suppress(ProvisionError):  # the run itself doesn't need the answer
            listed.append(images.products())

    thread = BackgroundThread(ask, "newer")
    thread.start()
    yield
    thread.join(_LIST_SECONDS)
    with suppress(ProvisionError):
        if listed and (line := source.newer_build(listed[0])):
            console.step(line)
