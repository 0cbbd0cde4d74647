"""Finds files whose extended attributes differ from those that the image has."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress

from provisioner.comparison.changes import opened_record
from provisioner.comparison.join import join_one
from provisioner.container.access import open_rootfs
from provisioner.errors import PathErrors
from provisioner.filesystem.descriptors import closing_descriptor, open_readable
from provisioner.filesystem.walk import Closed, walk
from provisioner.filesystem.xattrs import read_xattrs
from provisioner.ownership.mtree import parse_entries


def find_changed_attributes(folder: int, shown: str, *, closed: Closed = "raise") -> Iterator[bytes]:
    """Yield the paths in the rootfs beside the open `.provision/` that have an attribute other than in the image.

    It is one that the image doesn't have there, or has with another value, such as after setcap(8). Attributes that are
    missing are no change: the file system may not store them. Only files count that were touched since the image was
    unpacked. `shown` and `closed` are those of `find_changes`. Raises MachineError.
    """
    with (
        opened_record(folder, shown) as (record, baseline),
        PathErrors(f"compare {shown} with its image") as errors,
        closing_descriptor(open_rootfs(folder)) as rootfs,
    ):
        written = baseline.header.written
        if written is None:
            return
        for path, entry, file in join_one(parse_entries(record), walk(rootfs, closed=closed)):
            errors.path = path
            if entry is None or file is None or file.stat.st_ctime_ns < written or file.is_mounted:
                continue
            if not stat.S_ISREG(file.stat.st_mode) and not file.is_directory:
                continue
            known = dict(entry.xattrs)
            with (
                suppress(FileNotFoundError),
                closing_descriptor(open_readable(file.directory, file.name, file.stat)) as opened,
            ):
                if any(known.get(name) != value for name, value in read_xattrs(opened)):
                    yield path
