"""The LXC image server of the configuration, with its mirrors, by options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.commands.source_options import SourceOptions
from provisioner.image.server_address import ServerAddress
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.registry.lxc_server import LxcImages


def lxc_images(options: SourceOptions, console: Console) -> LxcImages:
    """Return the LXC image server with the mirrors of `--mirror` and then those of the configuration.

    Raises UsageError.
    """
    from provisioner.registry.lxc_server import LxcImages, LxcServer

    def client(text: str) -> LxcServer:
        address = ServerAddress.parse(text)
        insecure = options.insecure or options.config.is_insecure(address.host)
        return LxcServer(address, insecure=insecure, connections=options.jobs)

    servers = options.config.lxc
    mirrors = dict.fromkeys((*options.mirrors, *servers.mirrors))
    return LxcImages(client(servers.server), [client(text) for text in mirrors], console.step)
