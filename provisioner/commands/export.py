"""`provision export DIR FILE`: the files of a container as an archive for other programs."""

from __future__ import annotations

import argparse

from provisioner.commands.archiving import add_archive_arguments, write_archive

HELP = "Write the files of a container to an archive, with owners"
EXAMPLE = "provision export ./container rootfs.tar.gz"
FORMATS = ("tar",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add_archive_arguments(parser, "the archive, compressed by its name: .tar, .tar.gz, .tar.xz, .tar.zst; or -")
    parser.add_argument(
        "--format", choices=FORMATS, default="tar", help="tar: the root file system, as docker export writes it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the archive. Raises ProvisionError; FILE is then as it was."""
    from provisioner.exports.tar_export import write_tar

    return write_archive("export", arguments, write_tar)
