"""Paths of archives, which are bytes and may be anything."""

from __future__ import annotations

from provisioner.errors import MalformedImage
from provisioner.filesystem.atomic import NAME_MAX
from provisioner.terminal.escaping import printable

_PATH_MAX = 1 << 14
"""The longest path that is accepted, in bytes: four times the kernel's limit. It also limits how deep a path can be."""


def split_path(path: bytes) -> list[bytes]:
    """Split the path of an archive into names; it may begin with `/` or `./`.

    A name before `..` is left out with it, whatever it is in the tree, as Go's tools do. Raises MalformedImage for a
    path that leaves the root, has a NUL in it, or is too long.
    """
    if b"\0" in path:
        raise MalformedImage(f"{printable(path[:300])!r} contains a NUL")
    if len(path) > _PATH_MAX:
        raise MalformedImage(f"it is a path of {len(path)} bytes, {_PATH_MAX} is the most")
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            if not names:
                raise MalformedImage(f"{printable(path[:300])!r} climbs out of the root")
            names.pop()
        elif len(name) > NAME_MAX:
            raise MalformedImage(f"{printable(name[:60])}… is a name of {len(name)} bytes, {NAME_MAX} is the most")
        elif name not in (b"", b"."):
            names.append(name)
    return names


def names_of_target(path: bytes, target: bytes) -> list[bytes]:
    """Return the names from the root to the target of the symlink at `path`, which may be `..` as well."""
    whole = target if target.startswith(b"/") else path.rpartition(b"/")[0] + b"/" + target
    return [name for name in whole.split(b"/") if name not in (b"", b".")]
