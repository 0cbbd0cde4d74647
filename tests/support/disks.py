"""Disks that tests may break: a file system on a loop device, its content after a power cut, its errors."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import find_program, need, need_root, run
from tests.support.waiting import wait_until

_MAKE = {
    "ext2": ("mkfs.ext2", "-q", "-E", "lazy_itable_init=0,nodiscard"),
    "ext4": ("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=0,nodiscard"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
}

FAILURES = (os.strerror(errno.EIO), os.strerror(errno.ENOSPC))
"""What is said of a disk that has no more `room`: the loop device says one or the other, by the version of Linux."""


@dataclass(frozen=True)
class Disk:
    """A disk of one file system, mounted at `path`."""

    backing: Path
    """The file that holds what was written to the disk, and nothing that is only in memory."""
    path: Path
    options: str = "loop"
    """The options to mount it with."""

    def commit_journal(self) -> None:
        """Have the file system store its metadata, as it does by itself every few seconds."""
        with (self.path / "other").open("wb") as file:
            file.write(b"of another program")
            os.fsync(file.fileno())

    def cut_power(self) -> None:
        """Have at `path` what would be found there if the power had been cut now."""
        copy = self.backing.with_name("after")
        shutil.copyfile(self.backing, copy)
        unmount(self.path)
        run("mount", "-o", self.options, copy, self.path)

    def damage(self, path: Path) -> None:
        """Change the content of a file on the disk behind the file system. On btrfs it can't be read any more."""
        content = path.read_bytes()[:1000]
        with path.open("rb") as opened, self.backing.open("r+b") as file, mmap.mmap(file.fileno(), 0) as stored:
            os.fsync(opened.fileno())
            at = stored.find(content)
            assert at >= 0, "it isn't on the disk"
            while at >= 0:
                stored[at] ^= 1
                at = stored.find(content, at + 1)
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else it is in memory


def unmount(point: Path, *command: str) -> None:
    """Unmount a file system. For a moment it may be busy: with files of a process that has ended, or a look at it."""
    wait_until(lambda: subprocess.run([*(command or ("umount",)), point], check=False).returncode == 0)


@contextmanager
def tmpfs(point: Path, options: str = "") -> Iterator[Path]:
    """Mount a file system in memory at `point`, made if need be, with options of mount(8) such as `size=4m`."""
    need_root()
    need("mount", "umount")
    point.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", options or "defaults", "tmpfs", point)
    try:
        yield point
    finally:
        unmount(point)


@contextmanager
def bindfs(place: Path, *options: str) -> Iterator[Path]:
    """Mount a new directory `place/below` at `place/shown`, with other owners or permissions as bindfs(1) has options.

    `--force-user=65534` is like NFS with root_squash. Gives the path of the second one.
    """
    need_root()
    need("bindfs", "fusermount")
    below, shown = place / "below", place / "shown"
    below.mkdir()
    shown.mkdir()
    run("bindfs", *options, below, shown)
    try:
        yield shown
    finally:
        unmount(shown, "fusermount", "-u")


@contextmanager
def disk(place: Path, file_system: str = "ext4", room: str = "") -> Iterator[Disk]:
    """Make a disk of 320 MB and mount it at `place/disk`. It takes no more than `room` (`40m`) if that is given.

    Whatever comes on top of that is refused when it is written, not when it is taken. With ext2 that is content alone;
    a journal that can't be written makes the file system read-only.
    """
    need_root()
    need("mount", "umount", "losetup", _MAKE[file_system][0])
    folder = place / "backing"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={room or '1g'}", "tmpfs", folder)
    try:
        with (folder / "file").open("wb") as file:
            file.truncate(320 << 20)
        program, *options = _MAKE[file_system]
        run(find_program(program) or program, *options, folder / "file")
        point = place / "disk"
        point.mkdir()
        # A mount namespace of another program may have the disk mounted a moment longer than its copy needs.
        mounted = Disk(folder / "file", point, "loop,nouuid" if file_system == "xfs" else "loop")
        run("mount", "-o", mounted.options, folder / "file", point)
        try:
            yield mounted
        finally:
            unmount(point)
    finally:
        run("umount", "--lazy", folder)  # the kernel frees a loop device a moment later
