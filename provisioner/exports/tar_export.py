"""Writes the root file system of a container as a tar archive, as `docker export` does, with the image's owners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from provisioner.archives.writer import ArchiveWriter
from provisioner.container.access import open_rootfs
from provisioner.container.opened import OpenedContainer
from provisioner.exports.owners import OwnerSource
from provisioner.exports.tree_files import FilesReport, TreeFiles
from provisioner.filesystem.descriptors import closing_descriptor


def write_tar(
    container: OpenedContainer, write: Callable[[bytes], None], exclude: Sequence[str] = ()
) -> tuple[FilesReport, OwnerSource]:
    """Write the files in the rootfs of a container by the function `write`.

    Paths begin with the first name. Returns and raises as `write_backup` does.
    """
    writer = ArchiveWriter(write)
    with (
        closing_descriptor(open_rootfs(container.folder)) as rootfs,
        TreeFiles(rootfs, container.folder, b"", exclude) as files,
    ):
        for file in files:
            writer.add(file.entry, file.content)
    writer.finish()
    return files.report, files.owners
