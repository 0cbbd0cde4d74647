"""Makes an image of a directory, for `export` and `push`: its documents, its new layer, and the layers below."""

from __future__ import annotations

import argparse
import calendar
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioner.commands.image_options import source_date_epoch
from provisioner.commands.open_source import open_source
from provisioner.commands.repair import image_of
from provisioner.commands.source_options import SourceOptions
from provisioner.config import Config
from provisioner.container.opened import OpenedContainer
from provisioner.container.record import Record
from provisioner.errors import ProvisionError, UsageError
from provisioner.exports.base_layers import fetch_layers, image_with_layers
from provisioner.exports.layer import LayerOptions, NewLayer, write_layer
from provisioner.exports.owners import OwnerSource
from provisioner.exports.tree_files import FilesReport
from provisioner.exports.unstated_layers import find_digests, has_unstated_digests
from provisioner.image.config_changes import ConfigChange
from provisioner.image.derivation import AddedLayer, Derivation, DerivedImage, derive
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.reference import Reference
from provisioner.image.source_name import RegistryName, parse_source
from provisioner.image.stored_blob import StoredBlob
from provisioner.inspection import image_as_run
from provisioner.terminal.escaping import shell_line
from provisioner.terminal.progress import Console


@dataclass(frozen=True)
class NewImage:
    """An image that was made of a directory."""

    image: DerivedImage
    base: Image
    """The image that the directory was made of."""
    record: Record
    added_layer: StoredBlob | None
    """None where no file differs."""
    created: int
    """In seconds since 1970."""
    report: FilesReport
    owners: OwnerSource
    base_layers: Sequence[StoredBlob] = ()
    """The layers of `base`, where they had to be read for their digests."""

    @property
    def base_reference(self) -> Reference | None:
        """The reference that the directory was made of; None where it isn't from a registry."""
        name = parse_source(self.record.reference)
        return name.reference if isinstance(name, RegistryName) else None


@contextmanager
def new_image(
    arguments: argparse.Namespace,
    container: OpenedContainer,
    console: Console,
    *,
    only_oci: bool,
    space: Path | None,
) -> Iterator[NewImage]:
    """Make an image of a container, and give it for the context.

    With `only_oci` it is in OCI's format, whatever the image's is. `space` is where the new layer is for a while.
    Raises ProvisionError and OSError.
    """
    changes = [ConfigChange.parse(text) for text in arguments.change]
    latest, record = source_date_epoch(), container.read_record()
    base = image_as_run(container, record)
    if base.rootfs is not None and not arguments.squash:
        raise UsageError(
            f"{container.shown} was made of a root file system, which has no layers",
            f"make one layer of all its files: {_with_squash(arguments)}",
        )
    options = LayerOptions(arguments.exclude, arguments.squash, latest, space)
    with ExitStack() as stack:
        base_layers: list[StoredBlob] = []
        if has_unstated_digests(base) and not arguments.squash:
            base, base_layers = _find_digests(arguments, record, console, stack)
        with console.byte_activity(
            f"making a layer of {'all' if arguments.squash else 'the changed'} files"
        ) as advance:
            layer, report, owners = write_layer(container, options, stack, advance)
        created = _created(base, layer, latest)
        name = parse_source(record.reference)
        derivation = Derivation(
            AddedLayer(layer.digest, layer.size, layer.diff_id) if layer else None,
            arguments.squash,
            changes,
            arguments.comment,
            created,
            str(name.reference) if isinstance(name, RegistryName) else "",
        )
        image = derive(base, derivation, only_oci=only_oci)
        stored = StoredBlob(image.layers[-1], layer.file.fileno()) if layer else None
        yield NewImage(image, base, record, stored, created, report, owners, base_layers)


def _find_digests(
    arguments: argparse.Namespace, record: Record, console: Console, stack: ExitStack
) -> tuple[Image, list[StoredBlob]]:
    """Return the image of a docker-archive with the digests of its layers, and these, open until `stack` ends.

    Raises ProvisionError, with what can be done where they can't be had.
    """
    try:
        source = stack.enter_context(
            open_source(parse_source(record.reference), SourceOptions.of(arguments, Config.load()), console)
        )
        image = image_of(source, record)
        with console.progress(image.download_size) as progress:
            progress.describe("layers of the image, whose digests the archive doesn't state")
            return find_digests(image, source, progress.advance, stack)
    except ProvisionError as error:
        raise _without_layers(error, arguments) from error.__cause__


def fetch_base_layers(
    arguments: argparse.Namespace, new: NewImage, needed: Collection[Digest], console: Console, stack: ExitStack
) -> list[StoredBlob]:
    """Return the layers of the directory's image that have the digests `needed`, open until `stack` ends.

    Raises ProvisionError, with what can be done where they can't be had.
    """
    if new.base_layers:
        return [layer for layer in new.base_layers if layer.descriptor.digest in needed]
    if not needed:
        return []
    name = parse_source(new.record.reference)
    try:
        with open_source(name, SourceOptions.of(arguments, Config.load()), console) as source:
            is_local = not isinstance(name, RegistryName)
            # The layers of a file are found by way of its documents.
            part = image_with_layers(new.base, needed)
            image = image_of(source, new.record) if is_local else part
            with console.progress(part.download_size) as progress:
                progress.describe("layers of the image")
                layers = fetch_layers(image, source, needed, progress.advance, stack)
            for layer in layers if is_local else ():
                layer.verify()
            return layers
    except ProvisionError as error:
        raise _without_layers(error, arguments) from error.__cause__


def _without_layers(error: ProvisionError, arguments: argparse.Namespace) -> ProvisionError:
    """Return an error with the command line that needs no layers as the last hint."""
    error.hint = f"{error.hint}; or without these layers: {_with_squash(arguments)}".removeprefix("; or ")
    return error


def _with_squash(arguments: argparse.Namespace) -> str:
    """Return the command line that needs no layers of the image."""
    if hasattr(arguments, "format"):
        words = ["export", "--squash", f"--format={arguments.format}", arguments.directory, arguments.file]
    else:
        words = ["push", "--squash", arguments.directory, arguments.reference]
    return shell_line(["provision", *words])


def _created(base: Image, layer: NewLayer | None, latest: int | None) -> int:
    """Return when the image was created: the same each time, as long as no file changes."""
    if latest is not None:
        return latest
    if layer is not None:
        return min(layer.newest, int(time.time()))
    date = re.match(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", base.config.created)
    try:
        return max(0, calendar.timegm(time.strptime(date[0], "%Y-%m-%dT%H:%M:%S"))) if date else 0
    except ValueError:
        return 0
