"""Images of LXC image servers: the server of the configuration with its mirrors, or with --offline the cache alone."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from provisioner.commands.outdated_locks import report_newer_build
from provisioner.errors import MachineError
from provisioner.image.server_address import ServerAddress
from provisioner.image.source_name import Lxc
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.commands.opening import Opening
    from provisioner.commands.source_options import SourceOptions
    from provisioner.registry.lxc_server import LxcImages
    from provisioner.sources import Source
    from provisioner.store.blobs import BlobCache


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
        opening.stack.enter_context(report_newer_build(source, asked, opening.console))
    return source
