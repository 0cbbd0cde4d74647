"""Opens the source of an image by its name, whatever kind of source that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from provisioner.catalogue import Catalogue
from provisioner.commands.archive_sources import (
    open_docker_archive,
    open_file_name,
    open_oci_archive,
    open_oci_layout,
    open_skopeo_directory,
    open_standard_input,
)
from provisioner.commands.file_sources import open_rootfs, open_url
from provisioner.commands.lxc_sources import open_lxc
from provisioner.commands.opening import Opening
from provisioner.commands.registry_sources import open_registry
from provisioner.commands.source_options import SourceOptions
from provisioner.errors import UsageError
from provisioner.image.platform import Platform
from provisioner.image.reference import DOCKER_HUB
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
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.sources import Source

OPENERS: Mapping[type[Any], Callable[[Any, Opening], Source]] = {
    RegistryName: open_registry,
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
        opening.stack.enter_context(source.noting_interrupts())
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
