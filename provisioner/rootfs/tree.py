"""The tree of a rootfs: file operations that can't leave its root directory, whatever names and symlinks are in it.

Every operation is relative to a directory's descriptor, and the kernel follows no symlinks: `open_directories` does,
within the root.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from provisioner.errors import MalformedImage, machine_errors
from provisioner.filesystem.atomic import NAME_MAX
from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, NEW_FILE, closing_descriptor
from provisioner.filesystem.removal import names_in, remove_tree
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.parts import RecordParts
from provisioner.rootfs.moving import move
from provisioner.rootfs.open_directories import MAX_LINKS, OpenDirectories
from provisioner.rootfs.paths import names_of_target, split_path
from provisioner.terminal.escaping import printable

NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""The errors of looking up a path that doesn't exist."""
_NO_NAMES = (b"", b".", b"..")

_IMAGE_FAULTS = {
    errno.ENOTDIR: "it is below something that is no directory",
    errno.ELOOP: "it is below a symlink that can't be followed",
}


@contextmanager
def tree_errors(what: str) -> Iterator[None]:
    """Turn an OSError of a Tree into MalformedImage where the image is the cause, else into MachineError.

    The message begins with `what`, the operation that failed.
    """
    with machine_errors(what):
        try:
            yield
        except OSError as error:
            if error.errno in _IMAGE_FAULTS:
                raise MalformedImage(f"{what}: {_IMAGE_FAULTS[error.errno]}") from error
            raise


class Place(NamedTuple):
    """Where a file is or may be created."""

    directory: int
    """The descriptor of the parent directory."""
    name: bytes
    path: bytes
    """The path in the tree, in which no directory is a symlink."""


class Tree:
    """A directory to unpack into. Methods take the paths of an archive and raise MalformedImage and OSError.

    The tree closes the directory of a Place: it is open at least until the next place has been located, unless
    something is removed in between.
    """

    def __init__(self, root: Path | int) -> None:
        self.overrides = MetadataOverrides()
        """The metadata of the tree's files that the file system could not store."""
        self._root = os.open(b".", DIRECTORY, dir_fd=root) if isinstance(root, int) else os.open(root, DIRECTORY)
        self._directories = OpenDirectories(self._root, self._open_name)
        self.implied_directories = 0
        """The number of directories that were created because they were missing above a path."""
        self.trash: int | None = None
        """An open directory to which what has overrides is moved in place of removing it, so that its inodes stay."""
        self._trash_names = itertools.count()
        self.record_parts: RecordParts | None = None
        """Parts of the tree's ownership record; the lines of directories that are opened by a path are discarded."""

    def __enter__(self) -> Self:
        """Return the tree itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all directories."""
        self._directories.forget()
        self._directories.close_unused()
        os.close(self._root)
        if self.record_parts is not None:
            self.record_parts.close()

    def locate(self, path: bytes, *, create: bool = True) -> Place:
        """Open the parent directory of `path` and return the place. Only the last name is not followed as a symlink.

        Missing parents are created, or raise FileNotFoundError if `create` is false.
        """
        head, _, name = path.removeprefix(b"./").rpartition(b"/")
        if (
            (opened := self._directories.recent(head)) is None
            or name in _NO_NAMES
            or len(name) > NAME_MAX
            or b"\0" in name
        ):
            return self._locate(split_path(path), create)
        directory, prefix = opened
        if self.record_parts is not None:
            self.record_parts.discard(prefix[:-1])
        return tuple.__new__(Place, (directory, name, prefix + name))  # much faster than the class

    def locate_free(self, path: bytes) -> Place:
        """Remove whatever is at `path` and return the place."""
        place = self.locate(path)
        self.remove(place)
        return place

    def create_file(self, path: bytes, mode: int = 0o600) -> tuple[Place, int]:
        """Create an empty file in place of whatever is at `path`, open for writing; the caller closes it."""
        place = self.locate(path)
        try:
            return place, os.open(place.name, NEW_FILE, mode, dir_fd=place.directory)
        except FileExistsError:
            self.remove(place)
            return place, os.open(place.name, NEW_FILE, mode, dir_fd=place.directory)

    def open_directory(self, path: bytes) -> tuple[Place, int]:
        """Open the directory at `path`; the caller closes it.

        It is created where it is missing, and in place of any other file, such as a symlink to a directory.
        """
        place = self.locate(path)
        try:
            os.mkdir(place.name, 0o700, dir_fd=place.directory)
        except FileExistsError:
            state = self.lstat(place)
            if stat.S_ISDIR(state.st_mode):
                self._note_existing_directory(place, state.st_ino)
            else:
                self._remove_for_directory(place)
                os.mkdir(place.name, 0o700, dir_fd=place.directory)
        self.discard_lines(place.path)
        return place, os.open(place.name, DIRECTORY, dir_fd=place.directory)

    def locate_hard_link(self, path: bytes, target: bytes) -> tuple[Place, Place]:
        """Return the places for a hard link: of the file `target`, and of `path`, where any other file is removed.

        Both are the same place if `path` is the file itself. Raises MalformedImage where there is no file `target`.
        """
        shown = repr(printable(target[:300]))
        try:
            source = self.locate(target, create=False)
            mode = self.lstat(source).st_mode
        except FileNotFoundError:
            raise MalformedImage(f"it is a hard link to {shown}, which isn't there") from None
        if stat.S_ISDIR(mode):
            raise MalformedImage(f"it is a hard link to {shown}, a directory")
        place = self.locate(path)
        if source.path.startswith(place.path + b"/"):
            raise MalformedImage(f"it is a hard link to {shown}, which it would replace")
        if place.path != source.path:
            self.remove(place)
        return source, place

    def read(self, path: bytes, limit: int = 1 << 20) -> bytes | None:
        """Return up to `limit` bytes of a regular file, or None where there is none. Symlinks are followed."""
        names = split_path(path)
        try:
            for _ in range(MAX_LINKS):
                place = self._locate(names, create=False)
                mode = self.lstat(place).st_mode
                if stat.S_ISREG(mode):
                    with open(self._open_file(place), "rb") as file:
                        return file.read(limit)
                if not stat.S_ISLNK(mode):
                    return None
                names = names_of_target(place.path, os.readlink(place.name, dir_fd=place.directory))
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
        return None

    def read_link(self, path: bytes) -> bytes | None:
        """Return the target of the symlink at `path`, or None where there is none."""
        try:
            place = self.locate(path, create=False)
            return os.readlink(place.name, dir_fd=place.directory)
        except OSError as error:
            if error.errno not in (*NOTHING_THERE, errno.EINVAL):
                raise
        return None

    def make_directory(self, path: bytes) -> None:
        """Create the directory `path` and those above it where they are missing. Symlinks are followed.

        New ones belong to root and have the mode 0755. Raises OSError where something else is in the way.
        """
        self._directories.close_unused()
        self._directories.find(split_path(path), create=True)

    def write(self, path: bytes, data: bytes, mode: int = 0o644) -> None:
        """Write a file that has no entry in the image, in place of whatever is at `path`. It belongs to root."""
        _, file = self.create_file(path)
        with open(file, "wb") as opened:
            opened.write(data)
            self._set_default_metadata(file)
            os.fchmod(file, mode)

    def symlink(self, path: bytes, target: bytes) -> None:
        """Make a symlink that has no entry in the image, unless something is at `path`. It belongs to root."""
        place = self.locate(path)
        with suppress(FileExistsError):
            os.symlink(target, place.name, dir_fd=place.directory)
            self.overrides.set(self.lstat(place).st_ino, None)

    def lstat(self, place: Place) -> os.stat_result:
        """Return lstat(2) of a place."""
        return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)

    def remove(self, place: Place) -> None:
        """Remove what is at `place`, a directory with all its content. It may be missing."""
        if not place.path:
            raise MalformedImage("it would replace the root directory")
        try:
            state = self.lstat(place)
        except FileNotFoundError:
            return
        self.remove_child(place.directory, place.name, state)
        if stat.S_ISDIR(state.st_mode) or stat.S_ISLNK(state.st_mode):
            self.forget_paths()

    def remove_child(self, directory: int, name: bytes, state: os.stat_result) -> None:
        """Remove the file `name`, whose lstat(2) is `state`, from an open directory of the tree.

        Call `forget_paths` after it where that was a directory or a symlink.
        """
        is_directory = stat.S_ISDIR(state.st_mode)
        if self.trash is not None and (is_directory or self.overrides.get(state.st_ino) is not None):
            move(directory, name, self.trash, b"%d" % next(self._trash_names))
            return
        if is_directory:
            remove_tree(directory, name)
        else:
            os.unlink(name, dir_fd=directory)
        self.overrides.stale = True

    def list_directory(self, path: bytes) -> Iterator[bytes]:
        """Yield the names in the directory `path`; none where it is missing, a symlink or another file.

        Each may be removed before the next is asked for.
        """
        try:
            place = self.locate(path, create=False)
            directory = os.open(place.name, DIRECTORY, dir_fd=place.directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        with closing_descriptor(directory):
            yield from names_in(directory)

    def resolve(self, path: bytes) -> bytes | None:
        """Return the path of the directory `path` without symlinks, or None where there is no such directory."""
        try:
            return self._directories.find(split_path(path), create=False).prefix[:-1]
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None

    def _locate(self, names: list[bytes], create: bool) -> Place:
        self._directories.close_unused()
        if not names:
            return Place(self._root, b".", b"")
        directory, prefix = self._directories.find(names[:-1], create)
        self.discard_lines(prefix[:-1])
        return Place(directory, names[-1], prefix + names[-1])

    def _open_file(self, place: Place) -> int:
        """Open the file at a place for reading; a subclass can change its permissions for that."""
        return os.open(place.name, EXISTING_FILE, dir_fd=place.directory)

    def _note_existing_directory(self, place: Place, inode: int) -> None:
        """Do nothing; a subclass can record that an entry names the directory at `place`, which is there already."""

    def _remove_for_directory(self, place: Place) -> None:
        """Remove the file at `place`, where a directory is going to be created."""
        self.remove(place)

    def _open_name(self, name: bytes, directory: int, above: Sequence[bytes], create: bool) -> int | bytes:
        """Open the directory `name` and return its descriptor; if it is a symlink, return the target.

        `above` are the names on the real path of `directory`. It is created where it is missing, if `create`.
        """
        try:
            return os.open(name, DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not create:
                raise
            os.mkdir(name, 0o755, dir_fd=directory)
            self.implied_directories += 1
            self.discard_lines(b"/".join([*above, name]))
            opened = os.open(name, DIRECTORY, dir_fd=directory)
            self._set_default_metadata(opened)
            os.fchmod(opened, 0o755)  # mkdir(2) is subject to the umask
            return opened
        except NotADirectoryError:  # which O_DIRECTORY raises for symlinks as well
            try:
                return os.readlink(name, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            raise

    def _set_default_metadata(self, file: int) -> None:
        """Make root the owner of a new file, even in a setgid directory, and remove overrides of its inode.

        It is a file that has no entry in the image.
        """
        if os.geteuid() == 0:
            with suppress(PermissionError):  # without CAP_CHOWN its group may be the directory's
                os.fchown(file, 0, 0)
        self.overrides.forget(file)

    def discard_lines(self, path: bytes) -> None:
        """Discard the recorded lines of a directory: it changes, or may have the inode of one that was removed."""
        if self.record_parts is not None:
            self.record_parts.discard(path)

    def forget_paths(self) -> None:
        """Have all directories looked up again from now on, since paths of open ones may lead elsewhere."""
        self._directories.forget()
