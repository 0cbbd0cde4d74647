"""`provision backup DIR FILE`: all of a container in one file, which `provision restore` makes a container of again."""

from __future__ import annotations

import argparse

from provisioner.commands.archiving import add_archive_arguments, write_archive

HELP = "Write all of a container to one file, with owners and devices"
EXAMPLE = "provision backup ./container container.tar.zst"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `backup`."""
    add_archive_arguments(parser, "the backup, compressed by its name: .tar, .tar.gz, .tar.xz, .tar.zst; or -")


def run(arguments: argparse.Namespace) -> int:
    """Write the backup. Raises ProvisionError; FILE is then as it was."""
    from provisioner.exports.backup import write_backup

    return write_archive("backup", arguments, write_backup)
