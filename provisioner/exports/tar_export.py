"""Writes the root file system of a container as a tar archive, as `docker export` does, with the image's owners."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from provisioner.archives.writer import ArchiveWriter
from provisioner.container_files import ROOTFS
from provisioner.exports.owners import OwnerSource
from provisioner.exports.tree_files import FilesReport, TreeFiles
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor


def write_tar(
    opened: int, folder: int, write: Callable[[bytes], None], exclude: Sequence[str] = ()
) -> tuple[FilesReport, OwnerSource]:
    """Write the files of the rootfs of an open directory, whose `.provision/` is open, too, by the function `write`.

    Paths begin with the first name. Returns and raises as `write_backup` does.
    """
    writer = ArchiveWriter(write)
    with (
        closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=opened)) as rootfs,
        TreeFiles(rootfs, folder, b"", exclude) as files,
    ):
        for file in files:
            writer.add(file.entry, file.content)
    writer.finish()
    return files.report, files.owners
