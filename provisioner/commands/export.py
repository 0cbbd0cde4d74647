"""`provision export DIR FILE`: a container for other programs, as a root file system or as an image."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.archiving import add_archive_arguments, write_archive
from provisioner.commands.image_options import add_image_arguments
from provisioner.errors import UsageError
from provisioner.image.reference import Reference
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.container.opened import OpenedContainer
    from provisioner.exports.owners import OwnerSource
    from provisioner.exports.tree_files import FilesReport

HELP = "Write a container to an archive: its files alone, or an image"
EXAMPLE = "provision export --format oci-archive ./container image.tar"
TAR, OCI, DOCKER = "tar", "oci-archive", "docker-archive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add_archive_arguments(parser, "the archive, compressed by its name: .tar, .tar.gz, .tar.xz, .tar.zst; or -")
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=(TAR, OCI, DOCKER),
        default=TAR,
        help="tar: the root file system, as docker export writes it; oci-archive, docker-archive: the image with what "
        "you have changed as one more layer",
    )
    parser.add_argument("--tag", metavar="NAME", help="what the image is called by programs that load it")
    add_image_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the archive. Raises ProvisionError; FILE is then as it was."""
    if arguments.format == TAR:
        from provisioner.exports.tar_export import write_tar

        names = ("squash", "change", "comment", "tag", "mirror", "insecure", "offline")
        if used := next((name for name in names if getattr(arguments, name)), ""):
            raise UsageError(f"--{used} is for images, and a tar is none", f"add --format {OCI} or {DOCKER}")
        return write_archive("export", arguments, write_tar)

    def write(
        container: OpenedContainer, write_bytes: Callable[[bytes], None], exclude: Sequence[str]
    ) -> tuple[FilesReport, OwnerSource]:
        return _write_image(arguments, container, write_bytes)

    _name(arguments)
    return write_archive("export", arguments, write, is_image=True)


def _write_image(
    arguments: argparse.Namespace, container: OpenedContainer, write: Callable[[bytes], None]
) -> tuple[FilesReport, OwnerSource]:
    """Write the image of a container by the function `write`. Returns and raises as `write_backup` does."""
    from provisioner.commands.image_making import fetch_base_layers, new_image
    from provisioner.commands.output import make_console
    from provisioner.exports.image_archive import write_image_archive

    console = make_console(arguments)
    with (
        ExitStack() as stack,
        new_image(arguments, container, console, only_oci=True, space=_space(arguments.file)) as new,
    ):
        own = [new.added_layer] if new.added_layer else []
        needed = {layer.digest for layer in new.image.layers} - {blob.descriptor.digest for blob in own}
        base = fetch_base_layers(arguments, new, needed, console, stack)
        with console.byte_activity(f"writing {printable(arguments.file)}") as advance:

            def write_counted(data: bytes) -> None:
                write(data)
                advance(len(data))

            write_image_archive(
                new.image,
                [*base, *own],
                _name(arguments),
                write_counted,
                time=new.created,
                has_docker_manifest=arguments.format == DOCKER,
            )
        console.step(f"the image is {new.image.descriptor.digest}" + ("" if own else ": no file was changed"))
        return new.report, new.owners


def _name(arguments: argparse.Namespace) -> Reference | None:
    """Return what the image is to be called. Raises UsageError."""
    if not arguments.tag:
        return None
    name = Reference.parse(arguments.tag)
    if name.digest:
        raise UsageError("--tag can't have a digest, which follows from the content", "leave out what begins with @")
    return name


def _space(file: str) -> Path | None:
    """Return the directory of FILE, which has to have room for the layer anyway; None where there is none."""
    above = Path(os.path.realpath(file)).parent
    is_usual = file != "-" and (not os.path.lexists(file) or os.path.isfile(file)) and os.access(above, os.W_OK)
    return above if is_usual else None
