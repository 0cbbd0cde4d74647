"""What is mounted where, as this process sees it (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from provisioner.filesystem.descriptors import LOCATION


class Mount(NamedTuple):
    """A mounted file system."""

    point: str
    """The absolute path where it is mounted."""
    type: str
    """The type of the file system, such as `ext4`."""
    source: str
    """What is mounted: the path in its file system of a part of that, as of a bind mount, else a device or a name."""


class MountLine(NamedTuple):
    """A line of a mountinfo. Paths are without escapes."""

    number: bytes
    """The number of the mount."""
    parent: bytes
    """The number of the mount that it is on."""
    device: bytes
    """The device of the file system, as `8:1`."""
    root: bytes
    """What is mounted, as a path from the root of the file system."""
    point: bytes
    """Where it is mounted, as a path from the root directory of the process."""
    type: bytes
    """The type of the file system."""
    source: bytes
    """A device, or a name that stands for none."""


def parse_mountinfo(text: bytes) -> Iterator[MountLine]:
    """Yield the mounts of a mountinfo, in the order of the kernel."""
    for line in filter(None, text.split(b"\n")):  # splitlines would split at a \r, which the kernel leaves in names
        fields, _, rest = line.partition(b" - ")
        number, parent, device, root, point, *_ = fields.split(b" ")
        kind, source, *_ = map(_unescape, rest.split(b" "))
        yield MountLine(number, parent, device, _unescape(root), _unescape(point), kind, source)


def read_mounts() -> list[Mount]:
    """Return all mounts in the order of the kernel; none where /proc can't be read."""
    return [
        Mount(
            os.fsdecode(mount.point),
            os.fsdecode(mount.type),
            os.fsdecode(mount.source if mount.root == b"/" else mount.root),
        )
        for mount in _own_mounts()
    ]


def mount_points_in(directory: Path) -> list[str]:
    """Return the mount points at and below `directory`."""
    return [mount.point for mount in read_mounts() if Path(mount.point).is_relative_to(directory)]


def mount_names_below(directory: int) -> frozenset[bytes]:
    """Return the last parts of the mount points below an open directory; none where /proc can't be read."""
    try:
        above = os.readlink(os.fsencode(f"/proc/self/fd/{directory}")).rstrip(b"/") + b"/"
    except OSError:
        return frozenset()
    points = (mount.point for mount in _own_mounts())
    return frozenset(point.rpartition(b"/")[2] for point in points if point.startswith(above))


def is_mount_point(directory: int, name: bytes) -> bool:
    """Return whether a file in an open directory is on another mount than that, even of the same file system.

    Where the kernel doesn't say that, file systems are compared. Raises OSError.
    """
    opened = os.open(name, LOCATION, dir_fd=directory)
    try:
        above, below = mount_number(directory), mount_number(opened)
        return above != below if above and below else os.fstat(opened).st_dev != os.fstat(directory).st_dev
    finally:
        os.close(opened)


def mount_number(descriptor: int) -> bytes:
    """Return the number of the mount that an open file is on; nothing where the kernel doesn't say it."""
    try:
        found = re.search(rb"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_bytes(), re.MULTILINE)
    except OSError:
        return b""
    return found[1] if found else b""


def mount_of(path: Path) -> Mount | None:
    """Return the mount that the absolute `path` is on; None where that is unknown."""
    best = None
    for mount in read_mounts():
        # Of several mounts at one point, only the last one is visible.
        if path.is_relative_to(mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _own_mounts() -> Iterator[MountLine]:
    """Return the mounts that this process sees; none where /proc can't be read."""
    try:
        return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return iter(())


def _unescape(path: bytes) -> bytes:
    """Return a path of a mountinfo, in which spaces and the like are octal escapes."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), path)
