"""Copies of directory trees: files of all types with owners, modes, times, attributes, hard links and holes.

Source and copy are walked with one open directory each, so neither the depth of a tree nor its symlinks matter.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from provisioner.filesystem.content import copy_data, try_reflink
from provisioner.filesystem.descriptors import DIRECTORY, NEW_FILE, closing_descriptor, open_readable
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.filesystem.xattrs import drop_inherited_lists, read_xattrs, set_read_xattrs
from provisioner.sizes import counted, size_text

_TRIES = 3
"""How often a file is copied that changes meanwhile."""
_SHOWN = 5


@dataclass
class CopyReport:
    """What was copied, and what could not be."""

    files: int = 0
    """Files of all types but directories."""
    content: int = 0
    """The bytes of all regular files, with holes."""
    reflinks: int = 0
    """Regular files that share their blocks with the original."""
    hard_links_lost: int = 0
    """Further names of files that became files of their own, since the file system refuses hard links."""
    owners_lost: int = 0
    xattrs_lost: int = 0
    devices_lost: int = 0
    """Devices, for which this user can only make an empty file."""
    mounted: list[str] = field(default_factory=list)
    """Where something is mounted, which is left out. Directories are empty in the copy."""
    changed: list[str] = field(default_factory=list)
    """Files that were written to while they were copied, each time that was tried."""
    vanished: list[str] = field(default_factory=list)
    """Files that were removed while others were copied."""

    def __str__(self) -> str:
        """Return for people how much was copied."""
        return f"{counted(self.files, 'file')}, {size_text(self.content)}"


class _Directory(NamedTuple):
    """A directory that is being copied."""

    path: bytes
    stat: os.stat_result
    xattrs: list[tuple[bytes, bytes]]


class TreeCopier:
    """Copies a tree into an open, empty directory.

    `is_left_out` says for a path, relative to the tree's top, whether it is left out with all that is below it;
    `translate` returns the target of a symlink for the copy.
    """

    def __init__(
        self, target: int, is_left_out: Callable[[bytes], bool], translate: Callable[[bytes], bytes] = bytes
    ) -> None:
        self.report = CopyReport()
        self.path = b"."
        """The path of the file that is being copied, for messages."""
        self._target = target
        self._is_left_out = is_left_out
        self._translate = translate
        self._links: dict[tuple[int, int], bytes] = {}
        """The paths of files with several names, by device and inode of the original."""

    def copy(self, source: int) -> CopyReport:
        """Copy everything in the open directory `source`, and its own mode, owner and time. Raises OSError."""
        here = os.dup(self._target)
        above: list[_Directory] = []
        try:
            for file in self._wanted(walk(source, closed="open")):
                if file is None:
                    directory = above.pop()
                    self.path = directory.path
                    here = self._finish_directory(here, directory, is_top=not above)
                    continue
                self.path = file.name if len(above) < 2 else above[-1].path + b"/" + file.name
                if file.is_directory:
                    if above:
                        here = self._enter_directory(here, file)
                    above.append(_Directory(self.path, file.stat, _xattrs_of(file)))
                if file.is_mounted:
                    self.report.mounted.append(os.fsdecode(self.path))
                    if not file.is_directory:
                        continue
                elif not file.is_directory:
                    self._copy_file(here, file)
                self.report.files += not file.is_directory
        finally:
            os.close(here)
        return self.report

    def copy_file(self, file: WalkedFile, here: int, path: bytes) -> None:
        """Copy one file that is no directory to the open directory `here`, where its name must be free.

        `path` is where it comes to from the top of the copy. Names of one file that are copied by one object are hard
        links again. Raises OSError.
        """
        self.path = path
        self._copy_file(here, file)
        self.report.files += 1

    def _wanted(self, files: Iterator[WalkedFile | None]) -> Iterator[WalkedFile | None]:
        """Yield the files that are not left out."""
        names: list[bytes] = []
        left_out = 0
        for file in files:
            if left_out:
                left_out += -1 if file is None else file.is_directory
                continue
            if file is None:
                names.pop()
            elif names and self._is_left_out(b"/".join([*names[1:], file.name])):
                left_out = int(file.is_directory)
                continue
            elif file.is_directory:
                names.append(file.name)
            yield file

    def _enter_directory(self, here: int, file: WalkedFile) -> int:
        """Create a directory in `here`, close that, and return the new one open."""
        os.mkdir(file.name, 0o700, dir_fd=here)
        there = os.open(file.name, DIRECTORY, dir_fd=here)
        os.close(here)
        return there

    def _finish_directory(self, here: int, original: _Directory, *, is_top: bool) -> int:
        """Give an open directory the metadata of the original, close it, and return the one above it."""
        there = here if is_top else os.open("..", DIRECTORY, dir_fd=here)
        # An access list that new files inherit must come after these.
        self._set_metadata(here, original.stat, original.xattrs)
        if there != here:
            os.close(here)
        return there

    def _copy_file(self, here: int, file: WalkedFile) -> None:
        """Copy what is no directory. Raises OSError."""
        mode, key = file.stat.st_mode, (file.stat.st_dev, file.stat.st_ino)
        if file.stat.st_nlink > 1:
            if key in self._links and self._link(self._links[key], here, file.name):
                return
            self._links.setdefault(key, self.path)
        try:
            if stat.S_ISREG(mode):
                self._copy_regular(here, file)
                return
            if stat.S_ISLNK(mode):
                target = self._translate(os.readlink(file.name, dir_fd=file.directory))
                os.symlink(target, file.name, dir_fd=here)
            else:
                self._make_node(here, file)
        except FileNotFoundError:
            self.report.vanished.append(os.fsdecode(self.path))
            return
        self._set_metadata_by_name(here, file)

    def _copy_regular(self, here: int, file: WalkedFile) -> None:
        with closing_descriptor(open_readable(file.directory, file.name, file.stat)) as original:
            if not stat.S_ISREG(os.fstat(original).st_mode):
                raise FileNotFoundError  # something else has come in its place
            copy = os.open(file.name, NEW_FILE, 0o600, dir_fd=here)
            self._copy_content(original, copy, file)

    def _copy_content(self, original: int, copy: int, file: WalkedFile) -> None:
        """Copy content and metadata from one open file to another, and close that."""
        with closing_descriptor(copy):
            for _ in range(_TRIES):
                before = os.fstat(original)
                if try_reflink(original, copy):
                    self.report.reflinks += 1
                    break
                os.ftruncate(copy, 0)
                copy_data(original, copy)
                after = os.fstat(original)
                if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                    break
            else:
                self.report.changed.append(os.fsdecode(self.path))
            self.report.content += before.st_size
            self._set_metadata(copy, file.stat, read_xattrs(original))

    def _link(self, first: bytes, here: int, name: bytes) -> bool:
        """Make a hard link to a file of the copy; return False where that is refused."""
        if hasattr(os, "link"):  # Python has none on Termux
            with suppress(OSError):
                os.link(first, name, src_dir_fd=self._target, dst_dir_fd=here, follow_symlinks=False)
                return True
        self.report.hard_links_lost += 1
        return False

    def _make_node(self, here: int, file: WalkedFile) -> None:
        """Make a FIFO, a socket or a device; an empty file in place of a device where that is refused."""
        try:
            os.mknod(file.name, file.stat.st_mode, file.stat.st_rdev, dir_fd=here)
        except PermissionError:
            os.mknod(file.name, stat.S_IFREG | 0o600, dir_fd=here)
            self.report.devices_lost += 1

    def _set_metadata_by_name(self, here: int, file: WalkedFile) -> None:
        """Set owner, mode and times of a file that can't be opened."""
        if os.geteuid() == 0:
            self._count_refusal(
                lambda: os.chown(file.name, file.stat.st_uid, file.stat.st_gid, dir_fd=here, follow_symlinks=False)
            )
        if not stat.S_ISLNK(file.stat.st_mode):
            os.chmod(file.name, stat.S_IMODE(file.stat.st_mode), dir_fd=here)
        times = (file.stat.st_atime_ns, file.stat.st_mtime_ns)
        os.utime(file.name, ns=times, dir_fd=here, follow_symlinks=False)

    def _set_metadata(self, copy: int, state: os.stat_result, xattrs: list[tuple[bytes, bytes]]) -> None:
        """Give an open file owner, attributes, mode and times of another, whose lstat(2) was `state`."""
        mode = stat.S_IMODE(state.st_mode)
        if os.geteuid() == 0:
            has_owner = self._count_refusal(lambda: os.fchown(copy, state.st_uid, state.st_gid))
        else:
            has_owner = state.st_uid == os.geteuid()
            with suppress(OSError):  # it may be of a group that this user isn't in
                os.fchown(copy, -1, state.st_gid)
        drop_inherited_lists(copy)
        self.report.xattrs_lost += set_read_xattrs(copy, xattrs)
        os.fchmod(copy, mode if has_owner else mode & 0o777)
        os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns))

    def _count_refusal(self, chown: Callable[[], None]) -> bool:
        """Return whether a file could be given to its owner; count it where not, as in some user namespaces."""
        try:
            chown()
        except OSError:
            self.report.owners_lost += 1
            return False
        return True


def _xattrs_of(directory: WalkedFile) -> list[tuple[bytes, bytes]]:
    """Return the attributes of a directory; none of one that is mounted, which isn't opened."""
    if directory.is_mounted:
        return []
    with closing_descriptor(open_readable(directory.directory, directory.name, directory.stat)) as opened:
        return read_xattrs(opened)


def describe_losses(report: CopyReport) -> list[str]:
    """Return a line for each kind of thing that a copy lacks."""
    counts = [
        (report.hard_links_lost, "hard link is a copy", "hard links are copies", ": hard links are refused here"),
        (report.owners_lost, "file belongs", "files belong", " to root: the owner can't be set here"),
        (report.xattrs_lost, "extended attribute", "extended attributes", " can't be set here"),
        (report.devices_lost, "device is an empty file", "devices are empty files", ": only root can make devices"),
    ]
    lines = [f"{counted(count, one, many)}{text}" for count, one, many, text in counts if count]
    lines += [f"something is mounted at {path}, and was left out" for path in report.mounted]
    for names, text in (
        (report.changed, "written to while being copied"),
        (report.vanished, "removed while others were copied"),
    ):
        if names:
            lines.append(f"{counted(len(names), 'file was', 'files were')} {text}: {', '.join(names[:_SHOWN])}")
    return lines
