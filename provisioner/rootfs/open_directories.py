"""The directories of a tree that are open, and the search for others: along a path, without leaving the root.

The kernel follows no symlinks here. Those of the image are resolved one name at a time, as after chroot(2): `/` and
`..` end at the root.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.atomic import NAME_MAX

MAX_LINKS = 40
"""How many symlinks one path may lead through, as in the kernel."""
_MAX_LINK_NAMES = 1024
"""How many names the symlinks of one search may add to a path, all together. Real images stay below 100."""
_MAX_OPEN = 64

OpenName = Callable[[bytes, int, Sequence[bytes], bool], int | bytes]
"""Opens a directory: takes its name, the open directory that it is in, the names on the real path of that, and whether
to create it where it is missing. Returns the descriptor, or the target of a symlink. Raises OSError and MalformedImage.
"""


class OpenDirectory(NamedTuple):
    """An open directory of a tree."""

    descriptor: int
    prefix: bytes
    """Its path in the tree, which no symlink is in, with a slash behind each name; empty for the root."""


class OpenDirectories:
    """The directories of the tree at the open directory `root` that were used last, by their paths in archives.

    `open_name` opens a single name. A directory stays open until another one takes its place here, and then until
    `close_unused` or `recent` is called.
    """

    def __init__(self, root: int, open_name: OpenName) -> None:
        self.root = root
        self._open_name = open_name
        self._open: OrderedDict[bytes, OpenDirectory] = OrderedDict()
        self._unused: list[int] = []
        """Descriptors to close."""

    def recent(self, path: bytes) -> OpenDirectory | None:
        """Return the directory `path` if it is open, None else; directories that are not in use any more are closed."""
        self.close_unused()
        if (opened := self._open.get(path)) is not None:
            self._open.move_to_end(path)
        return opened

    def is_open(self, path: bytes) -> bool:
        """Return whether the directory `path` is open, and no symlink is in its path."""
        opened = self._open.get(path)
        return opened is not None and opened.prefix[:-1] == path

    def find(self, names: list[bytes], create: bool) -> OpenDirectory:
        """Return the directory that these names lead to, through symlinks. Missing ones are created if `create`.

        Raises MalformedImage and OSError.
        """
        if not names:
            return OpenDirectory(self.root, b"")
        path = b"/".join(names)
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if (parent := self._open.get(b"/".join(names[:-1]))) is not None:
            opened = self._follow(parent, names[-1:], create)
        else:
            opened = self._follow(OpenDirectory(self.root, b""), names, create)
        self._open[path] = opened
        if len(self._open) > _MAX_OPEN:
            self._unused.append(self._open.popitem(last=False)[1].descriptor)
        return opened

    def forget(self) -> None:
        """Have all directories looked up again from now on, since paths of open ones may lead elsewhere."""
        self._unused += [opened.descriptor for opened in self._open.values()]
        self._open.clear()

    def close_unused(self) -> None:
        """Close the directories that are not in use any more."""
        while self._unused:
            os.close(self._unused.pop())

    def _follow(self, start: OpenDirectory, names: Iterable[bytes], create: bool) -> OpenDirectory:
        """Open `names` one after the other from `start`, resolve symlinks, and return the last directory."""
        todo, real, links, added = deque(names), start.prefix.split(b"/")[:-1], 0, 0
        here = os.dup(start.descriptor)
        try:
            while todo:
                name = todo.popleft()
                if name in (b"", b".") or (name == b".." and not real):
                    continue  # the root's parent is the root
                there = self._open_name(name, here, real, create)
                if isinstance(there, int):
                    # No directory is moved while the tree is written, so the kernel's `..` is the one in `real`.
                    if name == b"..":
                        real.pop()
                    else:
                        real.append(name)
                else:
                    target = there.split(b"/")
                    links, added = links + 1, added + len(target)
                    if added > _MAX_LINK_NAMES:
                        raise MalformedImage(
                            f"it is below symlinks that lead through more than {_MAX_LINK_NAMES} names"
                        )
                    if links > MAX_LINKS or any(len(part) > NAME_MAX for part in target):
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    todo.extendleft(reversed(target))
                    if not there.startswith(b"/"):
                        continue
                    there, real = os.dup(self.root), []
                here, there = there, here
                os.close(there)
        except BaseException:
            os.close(here)
            raise
        return OpenDirectory(here, b"".join(name + b"/" for name in real))
