"""Writes below a directory that can't leave it, whatever names and links are there already.

Every operation is relative to a directory's descriptor and follows no symlink by itself. The symlinks of the image
are resolved here, one component at a time, as chroot would: `/` and `..` end at the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from provisioner.errors import MalformedImage, machine_errors
from provisioner.filesystem.removal import DIRECTORY, names_in, remove_tree
from provisioner.filesystem.walk import directories
from provisioner.ownership.overrides import NO_TIME, MetadataOverrides
from provisioner.terminal.escaping import printable

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is made: never over what is there."""
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What looking up a path that leads nowhere may end with."""
_LINKS = 40
"""Symlinks that one path may lead through, as in the kernel."""
_OPEN_DIRECTORIES = 64
_NAME_MAX = 255
_PATH_MAX = 1 << 14
"""The longest path that is taken: four times what the kernel takes at once, and no more directories than that."""
_NO_NAMES = (b"", b".", b"..")

_IMAGE_FAULTS = {
    errno.ENOTDIR: "it is below something that is no directory",
    errno.ELOOP: "it is below a symlink that can't be followed",
}


@contextmanager
def tree_errors(what: str) -> Iterator[None]:
    """Turn what a Tree raises into ProvisionError: MalformedImage where the image is to blame, else MachineError."""
    with machine_errors(what):
        try:
            yield
        except OSError as error:
            if error.errno in _IMAGE_FAULTS:
                raise MalformedImage(f"{what}: {_IMAGE_FAULTS[error.errno]}") from error
            raise


class Place(NamedTuple):
    """A name in an open directory; `path` is where that is in the tree, free of symlinks."""

    directory: int
    name: bytes
    path: bytes


def components(path: bytes) -> list[bytes]:
    """The names in an archive's path, which may begin with `/` or `./`. Raises MalformedImage for any other path."""
    if b"\0" in path:
        raise MalformedImage(f"{printable(path[:300])!r} contains a NUL")
    if len(path) > _PATH_MAX:
        raise MalformedImage(f"it is a path of {len(path)} bytes, {_PATH_MAX} is the most")
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    for name in names:
        if name == b"..":
            raise MalformedImage(f"{printable(path[:300])!r} climbs out of its directory")
        if len(name) > _NAME_MAX:
            raise MalformedImage(f"{printable(name[:60])}… is a name of {len(name)} bytes, {_NAME_MAX} is the most")
    return names


class Tree:
    """A directory to unpack into. Methods take archive paths as bytes and raise MalformedImage and OSError.

    The directory of a Place stays the tree's: it is open while the next place is looked up, unless something has been
    removed in between, and may be closed then.
    """

    def __init__(self, root: Path, overrides: MetadataOverrides | None = None) -> None:
        self.overrides = overrides or MetadataOverrides()
        """What the image says of what is in the tree."""
        self._root = os.open(root, DIRECTORY)
        self._open: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
        self._closing: list[int] = []
        self.made = 0
        """Directories that no path named but that were missing above one."""

    def __enter__(self) -> Tree:
        """The tree itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all directories."""
        self._forget()
        self._close()
        os.close(self._root)

    def place(self, path: bytes, *, create: bool = True) -> Place:
        """Where `path` is: its parent opened, made where missing. Only the last name is not followed.

        Raises FileNotFoundError where a parent is missing and `create` is false.
        """
        head, _, name = path.removeprefix(b"./").rpartition(b"/")
        if (opened := self._open.get(head)) is None or name in _NO_NAMES or len(name) > _NAME_MAX or b"\0" in name:
            return self._place(components(path), create)
        self._close()
        self._open.move_to_end(head)
        return Place(opened[0], name, opened[1] + name)

    def free(self, path: bytes) -> Place:
        """A place for something new: whatever was there is gone."""
        place = self.place(path)
        self.remove(place)
        return place

    def file(self, path: bytes) -> tuple[Place, int]:
        """A new, empty file in place of whatever was there, open for writing; the caller closes it."""
        place = self.place(path)
        try:
            return place, os.open(place.name, NEW_FILE, 0o600, dir_fd=place.directory)
        except FileExistsError:
            self.remove(place)
            return place, os.open(place.name, NEW_FILE, 0o600, dir_fd=place.directory)

    def directory(self, path: bytes) -> tuple[Place, int]:
        """A directory, open; the caller closes it.

        One that is there stays; anything else makes room for a new one, a symlink to a directory too.
        """
        place = self.place(path)
        try:
            os.mkdir(place.name, 0o700, dir_fd=place.directory)
        except FileExistsError:
            if not stat.S_ISDIR(self.state(place).st_mode):
                self.remove(place)
                os.mkdir(place.name, 0o700, dir_fd=place.directory)
        return place, os.open(place.name, DIRECTORY, dir_fd=place.directory)

    def pair(self, path: bytes, target: bytes) -> tuple[Place, Place]:
        """Where `target` is and a free place for a second name of it; the same twice where it has that name.

        Raises MalformedImage where there is no file `target`.
        """
        shown = repr(printable(target[:300]))
        try:
            source = self.place(target, create=False)
            mode = self.state(source).st_mode
        except FileNotFoundError:
            raise MalformedImage(f"it is a hard link to {shown}, which isn't there") from None
        if stat.S_ISDIR(mode):
            raise MalformedImage(f"it is a hard link to {shown}, a directory")
        place = self.place(path)
        if source.path.startswith(place.path + b"/"):
            raise MalformedImage(f"it is a hard link to {shown}, which it would replace")
        if place.path != source.path:
            self.remove(place)
        return source, place

    def read(self, path: bytes, limit: int = 1 << 20) -> bytes | None:
        """Up to `limit` bytes of a regular file, symlinks followed inside of the tree; None where there is none."""
        names = components(path)
        try:
            for _ in range(_LINKS):
                place = self._place(names, create=False)
                mode = self.state(place).st_mode
                if stat.S_ISREG(mode):
                    file = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
                    with open(file, "rb") as opened:
                        return opened.read(limit)
                if not stat.S_ISLNK(mode):
                    return None
                names = _followed(place)
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
        return None

    def write(self, path: bytes, data: bytes, mode: int = 0o644) -> None:
        """A file of root with this content in place of whatever was there, a symlink too."""
        _, file = self.file(path)
        with open(file, "wb") as opened:
            opened.write(data)
            self._without_entry(file)
            os.fchmod(file, mode)

    def set_times(self) -> None:
        """Give the directories the times that the image says; whatever is written into one later changes its own."""
        for found in directories(self._root):
            if (mtime := self.overrides.times[found.state.st_ino]) != NO_TIME:
                os.utime(found.name, ns=(mtime, mtime), dir_fd=found.directory, follow_symlinks=False)

    def state(self, place: Place) -> os.stat_result:
        """`lstat` of a place."""
        return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)

    def remove(self, place: Place) -> None:
        """Take away what is at `place`, a directory with all that is below; nothing there is fine."""
        if not place.path:
            raise MalformedImage("it would replace the root directory")
        try:
            mode = self.state(place).st_mode
            if stat.S_ISDIR(mode):
                remove_tree(place.directory, place.name)
            else:
                os.unlink(place.name, dir_fd=place.directory)
        except FileNotFoundError:
            return
        self.overrides.stale = True
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            self._forget()  # the paths that are open may lead elsewhere now

    def children(self, path: bytes) -> Iterator[bytes]:
        """The names in the directory `path`, which is not followed if it is a symlink; none where there is none.

        Each may be removed before the next is asked for.
        """
        try:
            place = self.place(path, create=False)
            directory = os.open(place.name, DIRECTORY, dir_fd=place.directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            yield from names_in(directory)
        finally:
            os.close(directory)

    def real(self, path: bytes) -> bytes | None:
        """Where the directory `path` is, free of symlinks; None when there is no such directory."""
        try:
            return self._directory(components(path), False)[1].rstrip(b"/")
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None

    def _place(self, names: list[bytes], create: bool) -> Place:
        self._close()
        if not names:
            return Place(self._root, b".", b"")
        directory, real = self._directory(names[:-1], create)
        return Place(directory, names[-1], real + names[-1])

    def _directory(self, names: list[bytes], create: bool) -> tuple[int, bytes]:
        """The open directory for `names`, and its real path with a slash behind each name."""
        if not names:
            return self._root, b""
        key = b"/".join(names)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        if (parent := self._open.get(b"/".join(names[:-1]))) is not None:
            opened = self._walk(parent, names[-1:], create)
        else:
            opened = self._walk((self._root, b""), names, create)
        self._open[key] = opened
        if len(self._open) > _OPEN_DIRECTORIES:
            self._closing.append(self._open.popitem(last=False)[1][0])
        return opened

    def _walk(self, start: tuple[int, bytes], names: Iterable[bytes], create: bool) -> tuple[int, bytes]:
        """Open `names` one after the other from `start`, resolving symlinks inside of the root."""
        todo, real, links = deque(names), start[1].split(b"/")[:-1], 0
        here = os.dup(start[0])
        try:
            while todo:
                name = todo.popleft()
                if name in (b"", b".") or (name == b".." and not real):
                    continue  # the root's parent is the root
                there = self._enter(name, here, create)
                if isinstance(there, int):
                    # No directory is moved while the tree is written, so the kernel's `..` is the one in `real`.
                    if name == b"..":
                        real.pop()
                    else:
                        real.append(name)
                else:
                    links += 1
                    target = there.split(b"/")
                    if links > _LINKS or any(len(part) > _NAME_MAX for part in target):
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    todo.extendleft(reversed(target))
                    if not there.startswith(b"/"):
                        continue
                    there, real = os.dup(self._root), []
                os.close(here)
                here = there
        except BaseException:
            os.close(here)
            raise
        return here, b"".join(name + b"/" for name in real)

    def _enter(self, name: bytes, directory: int, create: bool) -> int | bytes:
        """The directory `name`, open, or where it leads if it is a symlink."""
        try:
            return os.open(name, DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not create:
                raise
            os.mkdir(name, 0o755, dir_fd=directory)
            self.made += 1
            opened = os.open(name, DIRECTORY, dir_fd=directory)
            self._without_entry(opened)
            os.fchmod(opened, 0o755)  # whatever the umask
            return opened
        except NotADirectoryError:  # this is what O_DIRECTORY says of a symlink, too
            try:
                return os.readlink(name, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            raise

    def _without_entry(self, file: int) -> None:
        """Make what was made just now root's, whatever group its directory hands down; the image says nothing of it."""
        if os.geteuid() == 0:
            os.fchown(file, 0, 0)
        self.overrides.forget(file)

    def _forget(self) -> None:
        """Look paths up anew from here on."""
        self._closing += [directory for directory, _ in self._open.values()]
        self._open.clear()

    def _close(self) -> None:
        """Close what no Place is in use of any more."""
        while self._closing:
            os.close(self._closing.pop())


def _followed(link: Place) -> list[bytes]:
    """The names on the path from the root to where a symlink leads; there may be `..` among them."""
    target = os.readlink(link.name, dir_fd=link.directory)
    path = target if target.startswith(b"/") else link.path.rpartition(b"/")[0] + b"/" + target
    return [name for name in path.split(b"/") if name not in (b"", b".")]
