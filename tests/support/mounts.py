"""The mount points of a process, from its mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A line of mountinfo."""

    point: Path
    options: frozenset[str]
    """The options of the mount itself (nosuid, nodev, ro), not those of its file system."""


def read_mountinfo(text: bytes) -> list[Mount]:
    """Return the mounts in the text of a mountinfo file, in its order."""
    lines = [line.split() for line in text.splitlines()]
    return [Mount(Path(_unescaped(line[4])), frozenset(line[5].decode().split(","))) for line in lines]


def mounts_below(path: Path) -> list[str]:
    """Return the mount points at or below `path` in this process's mount namespace."""
    mounts = read_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    return [str(mount.point) for mount in mounts if mount.point.is_relative_to(path.resolve())]


def mounts_outside_of_tests() -> list[str]:
    """Return this process's mount points but for those in directories of tests, where other tests mount meanwhile."""
    points = [str(mount.point) for mount in read_mountinfo(Path("/proc/self/mountinfo").read_bytes())]
    return [point for point in points if not re.search("/(pytest-of-[^/]+|provision-[a-z]+-[^/]+)/", point)]


def _unescaped(name: bytes) -> str:
    """Return a name in which spaces and the like were octal escapes."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), name))
