"""How the image of a directory is unpacked again: as it was the first time."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.container.record import Record
from provisioner.layers.job import UnpackOptions
from provisioner.rootfs.links import Substitute

_HARDLINKS: Mapping[str, Substitute] = {"copy": "copy", "symlink": "symlink"}


def unpack_options_of(record: Record, max_size: int | None) -> UnpackOptions:
    """Return the options for the image of a directory, or a newer one, that may take `max_size` bytes at most."""
    return UnpackOptions(max_size, _HARDLINKS.get(record.hardlinks, "auto"))
