"""Which mounts of all processes concern a directory: mounted below it, or showing a part of it at another place.

Other mount namespaces have paths of their own, and so have processes behind a chroot. A mount point is recognised by
where it is in its file system: the device, and the path from the root of that (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from provisioner.filesystem.mounts import mount_number, parse_mountinfo

_PROC = Path("/proc")
_REMOVED = b"//deleted"
"""The end of the path of a mounted directory that was removed since."""


class MountUse(NamedTuple):
    """A mount that concerns a directory."""

    pid: int
    """A process that sees it; 0 for this one."""
    point: str
    """Where it is mounted, as that process sees it."""
    is_source: bool
    """Whether it shows a part of the directory at another place; else it is mounted at the directory or below it."""


class _Location(NamedTuple):
    """A file in a file system."""

    device: bytes
    path: bytes
    """From the root of the file system."""

    def is_in(self, other: _Location) -> bool:
        return self.device == other.device and (self.path + b"/").startswith(other.path.rstrip(b"/") + b"/")


class _Mount(NamedTuple):
    """A mount, as a process sees it."""

    parent: bytes
    """The number of the mount that it is on."""
    point: bytes
    source: _Location
    """What is mounted."""

    def locate(self, path: bytes) -> _Location | None:
        """Return where in the mounted file system a path is; None where the path isn't below the mount point."""
        if not (path + b"/").startswith(self.point.rstrip(b"/") + b"/"):
            return None
        rest = path[len(self.point.rstrip(b"/")) :].strip(b"/")
        return _Location(self.source.device, b"/".join([self.source.path.rstrip(b"/"), rest]).rstrip(b"/") or b"/")


def find_mount_uses(directory: int) -> list[MountUse]:
    """Return the mounts of all processes that can be seen that concern an open directory, this process's first.

    Raises OSError where not even the mounts of this process can be read.
    """
    path = os.readlink(os.fsencode(f"/proc/self/fd/{directory}"))
    own = (_PROC / "self/mountinfo").read_bytes()
    location = _locate(directory, path, _parse(own))
    uses = _uses_in(0, own, location, path)
    seen = {own}
    for pid, text in _other_tables():
        if text not in seen:
            seen.add(text)
            uses += _uses_in(pid, text, location, None)
    first: dict[tuple[str, bool], MountUse] = {}
    for use in uses:
        first.setdefault((use.point, use.is_source), use)
    return list(first.values())


def _locate(directory: int, path: bytes, mounts: dict[bytes, _Mount]) -> _Location | None:
    """Return where an open directory is in its file system; None where its mount is hidden, as in a chroot."""
    mount = mounts.get(mount_number(directory))
    return mount.locate(path) if mount else None


def _uses_in(pid: int, text: bytes, location: _Location | None, path: bytes | None) -> list[MountUse]:
    """Return the mounts of a mountinfo that concern the directory at `location`, or below `path`."""
    mounts, uses = _parse(text), []
    for mount in mounts.values():
        parent = mounts.get(mount.parent)
        at = parent.locate(mount.point) if parent and parent is not mount else None
        is_below = path is not None and (mount.point + b"/").startswith(path + b"/")
        if is_below or (at and location and at.is_in(location)):
            uses.append(MountUse(pid, os.fsdecode(mount.point), False))
        elif location and mount.source.is_in(location) and not mount.source.path.endswith(_REMOVED):
            uses.append(MountUse(pid, os.fsdecode(mount.point), True))
    return uses


def _other_tables() -> Iterator[tuple[int, bytes]]:
    """Yield the mountinfo of each other process that lets this one read it."""
    with suppress(OSError):
        for name in sorted(filter(str.isdecimal, os.listdir(_PROC)), key=int):
            with suppress(OSError):
                yield int(name), (_PROC / name / "mountinfo").read_bytes()


def _parse(text: bytes) -> dict[bytes, _Mount]:
    """Return the mounts of a mountinfo by their numbers."""
    return {
        line.number: _Mount(line.parent, line.point, _Location(line.device, line.root))
        for line in parse_mountinfo(text)
    }
