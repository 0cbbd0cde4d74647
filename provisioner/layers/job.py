"""What is to be unpacked, and where to."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from provisioner.errors import HINTS, MachineError, machine_errors
from provisioner.filesystem.atomic import make_directory
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.removal import empty_directory, remove_tree
from provisioner.image.image import Image
from provisioner.layers.budget import too_large
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Substitute
from provisioner.rootfs.tree import Tree
from provisioner.sizes import size_text
from provisioner.sources import Source
from provisioner.terminal.progress import Console

ROOTFS = "rootfs"
"""The name of the directory that an image is unpacked to."""


@dataclass(frozen=True)
class UnpackOptions:
    """How to unpack an image."""

    max_size: int | None = None
    """The most bytes that the image may take, None for nine tenths of the free space."""
    hardlinks: Substitute = "auto"
    """What replaces hard links where the system refuses them."""


@dataclass(frozen=True)
class UnpackJob:
    """An image to unpack, and where to. Methods raise MachineError."""

    image: Image
    source: Source
    """Returns the layers of the image."""
    place: int
    """The open directory in which ROOTFS is made."""
    scratch: int
    """An open, empty directory on the same file system, for temporary files."""
    ownership: Ownership
    """The policy for new files in `place`."""
    console: Console
    options: UnpackOptions = field(default_factory=UnpackOptions)

    def make_tree(self) -> Tree:
        """Create ROOTFS, and return the open tree."""
        with machine_errors("make the rootfs"), closing_descriptor(make_directory(self.place, ROOTFS)) as rootfs:
            return Tree(rootfs)

    def discard(self) -> None:
        """Remove ROOTFS and all that is in `scratch`, so that the image can be unpacked again."""
        with machine_errors("empty the rootfs"):
            remove_tree(self.place, os.fsencode(ROOTFS))
            empty_directory(self.scratch)

    def free_space(self) -> int:
        """Return the free bytes in `place`. Raises MachineError where no more files can be made."""
        with machine_errors("look at the free space"):
            state = os.statvfs(self.place)
        if state.f_files and not state.f_favail:
            raise MachineError("no more files can be made here", HINTS[errno.ENOSPC])
        return state.f_bavail * state.f_frsize if state.f_blocks else 2**63 - 1  # some file systems don't report it

    def max_size(self) -> int:
        """Return the most bytes that the image may take: what was asked for, or nine tenths of the free space.

        Raises MachineError where not even the compressed layers fit.
        """
        image, free, requested = self.image, self.free_space(), self.options.max_size
        max_size = free * 9 // 10 if requested is None else requested
        if image.rootfs and image.rootfs.unpacked_size > max_size:
            raise too_large(max_size)
        compressed = image.download_size
        if compressed > free:
            raise MachineError(
                f"the compressed layers take {size_text(compressed)}, and {size_text(free)} are free",
                HINTS[errno.ENOSPC],
            )
        if compressed > max_size:
            raise too_large(max_size)
        return max_size
