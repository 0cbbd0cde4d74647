"""Finds the root directory of a rootfs archive: its own root, or a directory below it, by the names in it.

`docker export`, debootstrap, Alpine's minirootfs and LXC's rootfs.tar.xz have `bin`, `etc`, `usr` and `var` at the top.
Incus has them in `rootfs`, proot-distro's backups in `NAME/rootfs` or `installed-rootfs/NAME`, and Arch Linux and
others in a directory of any name.
"""

from __future__ import annotations

from provisioner.errors import MalformedImage
from provisioner.terminal.escaping import printable

_MARKS = frozenset((b"bin", b"etc", b"usr", b"var"))
"""The names that a root directory is known by."""
_OTHERS = frozenset(b"boot dev home lib lib32 lib64 media mnt opt proc root run sbin srv sys tmp".split())
"""Further names of a root directory. What is in a directory of such a name is most likely below the root itself."""
_ENOUGH = 3
"""So many of _MARKS in a directory make it the root without a look at the rest of the archive."""
_CANDIDATES = 1000
"""How many directories are considered at most."""


class RootSearch:
    """The search in an archive: `add` its paths, in order, until `root` is known, then `finish`."""

    def __init__(self) -> None:
        self.root: bytes | None = None
        """The path of the root directory in the archive without slashes around it, empty for the archive's own root.

        None while that isn't known."""
        self._marks: dict[bytes, set[bytes]] = {}
        """What was seen of _MARKS in each directory that may be the root."""

    def add(self, path: bytes) -> None:
        """Look at the path of an entry."""
        if (found := _candidate(path)) is None:
            return
        root, mark = found
        if not root:
            self.root = b""
        elif root in self._marks or len(self._marks) < _CANDIDATES:
            marks = self._marks.setdefault(root, set())
            marks.add(mark)
            if len(marks) == _ENOUGH and len(self._marks) == 1 and root not in _OTHERS:
                self.root = root

    def finish(self) -> bytes | None:
        """Return the root directory, when all paths were added; None where no directory looks like one.

        Raises MalformedImage where two do.
        """
        if self.root is None and self._marks:
            likely = [root for root in self._marks if root not in _OTHERS] or list(self._marks)
            most = max(len(self._marks[root]) for root in likely)
            first, *others = [root for root in likely if len(self._marks[root]) == most]
            if others:
                raise two_roots(first, others[0])
            self.root = first
        return self.root


def root_of(path: bytes) -> bytes | None:
    """Return the directory that a path of an archive makes look like a root directory; None for most paths."""
    found = _candidate(path)
    return found[0] if found and found[0] not in _OTHERS else None


def two_roots(one: bytes, other: bytes) -> MalformedImage:
    """Return the error for an archive with two root directories."""
    names = " and ".join(repr(printable(root)) if root else "its own root" for root in (one, other))
    hint = "archive the one that you mean by itself: tar -C DIRECTORY -cf rootfs.tar ."
    return MalformedImage(f"the archive has more than one root directory: {names}", hint)


def _candidate(path: bytes) -> tuple[bytes, bytes] | None:
    """Return a directory that may be the root by this path, and the name in it that says so."""
    names = [name for name in path.split(b"/", 5)[:5] if name not in (b"", b".")][:3]
    depth = next((depth for depth, name in enumerate(names) if name in _MARKS), None)
    if depth is None or (depth == 2 and not (names[1] == b"rootfs" or names[0] == b"installed-rootfs")):
        return None
    return b"/".join(names[:depth]), names[depth]
