"""What is to be unpacked, and where to."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from provisioner.container_files import ROOTFS
from provisioner.errors import HINTS, MachineError, machine_errors, no_room
from provisioner.filesystem.atomic import make_directory
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.removal import empty_directory, remove_tree
from provisioner.filesystem.space import FreeSpace, free_space
from provisioner.image.image import Image
from provisioner.layers.budget import too_large
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Substitute
from provisioner.rootfs.tree import Tree
from provisioner.sources import Source
from provisioner.terminal.progress import Console


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

    def free_space(self) -> FreeSpace:
        """Return what is free in `place`. Raises MachineError where no more files can be made."""
        with machine_errors("look at the free space"):
            free = free_space(self.place)
        if not free.files:
            raise MachineError("no more files can be made here", HINTS[errno.ENOSPC])
        return free

    def max_size(self) -> int:
        """Return the most bytes that the image may take: what was asked for, or nine tenths of the free space.

        Raises MachineError where not even the compressed layers fit.
        """
        image, free, requested = self.image, self.free_space(), self.options.max_size
        max_size = free.default_limit if requested is None else requested
        if image.rootfs and image.rootfs.unpacked_size > max_size:
            raise too_large(max_size)
        compressed = image.download_size
        if compressed > free.size:
            raise no_room("the compressed layers", compressed, free.size)
        if compressed > max_size:
            raise too_large(max_size)
        return max_size
