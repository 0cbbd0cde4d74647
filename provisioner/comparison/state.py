"""Compares a file on the disk with what the ownership record says of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from provisioner.container.proot_links import PREFIX
from provisioner.filesystem.descriptors import ANY_FILE, closing_descriptor, open_readable
from provisioner.filesystem.kind import DEVICES, KINDS, Kind
from provisioner.filesystem.walk import WalkedFile
from provisioner.ownership.digests import hash_file
from provisioner.ownership.mtree import Header, MtreeEntry
from provisioner.ownership.policy import WITHOUT_ROOT


class Aspect(Enum):
    """What of a file has changed."""

    TYPE = "type"
    CONTENT = "content"
    """The bytes of a file, or where a symlink leads."""
    MODE = "mode"
    OWNER = "owner"


@dataclass(frozen=True)
class Baseline:
    """What holds for all files of a directory, and is needed to compare one of them."""

    header: Header
    owner: tuple[int, int]
    """Who has provisioned the directory: without the image's owners on the disk, all files are theirs."""
    generated: Mapping[bytes, bytes]
    """The files that start.sh writes, as it wrote them last, by path."""
    first_id: int | None = None
    """The first of the user's subordinate ids, where files belong to these (`--ids many`)."""
    links: int | None = None
    """The open directory where Termux's proot has the content of files with hard links, None where there is none."""
    mount_points: frozenset[bytes] = frozenset()
    """What start.sh has made in the rootfs to mount something on."""
    opens_closed: bool = False
    """Whether a file that is closed to its owner, this user, is opened for the moment that reading it takes."""
    reads_all: bool = False
    """Whether content is compared even where times say that nobody has touched the file since: a disk may fail."""

    def compare(self, path: bytes, entry: MtreeEntry, file: WalkedFile) -> tuple[Aspect, ...]:
        """Return what of a file has changed since its entry was written; nothing for most. Raises OSError.

        A time of its own is no change: content decides where size and times don't.
        """
        if self.links is not None and entry.kind is Kind.FILE and stat.S_ISLNK(file.stat.st_mode):
            file = content_of_link(file, self.links)
        status, kind = file.stat, entry.kind
        mode = status.st_mode
        on_disk = KINDS.get(stat.S_IFMT(mode))
        if on_disk is not kind and not (kind in DEVICES and on_disk is Kind.FILE and not status.st_size):
            return (Aspect.TYPE,)
        aspects: tuple[Aspect, ...] = ()
        if (kind is Kind.FILE and self._has_other_content(path, entry, file)) or (
            kind is Kind.SYMLINK and os.readlink(file.name, dir_fd=file.directory) != entry.target
        ):
            aspects = (Aspect.CONTENT,)
        if mode & 0o7777 != entry.mode and kind is not Kind.SYMLINK and not self._has_usable_mode(entry, mode & 0o7777):
            aspects += (Aspect.MODE,)
        return aspects if self._has_owner(entry, status) else (*aspects, Aspect.OWNER)

    def owner_of(self, status: os.stat_result) -> tuple[int, int]:
        """Return the user and group that a file has for the guest. `status` is its lstat(2)."""
        if self.header.has_owners and not self.owner[0]:
            return status.st_uid, status.st_gid
        return self._guest_id(status.st_uid, self.owner[0]), self._guest_id(status.st_gid, self.owner[1])

    @cached_property
    def has_image_owners(self) -> bool:
        """Whether the disk has the image's owners, and modes; under fakeroot only fakeroot's memory had them."""
        return self.first_id is not None or (self.header.has_owners and not self.owner[0])

    def _has_owner(self, entry: MtreeEntry, status: os.stat_result) -> bool:
        if not self.has_image_owners and (status.st_uid, status.st_gid) == self.owner:
            return True
        return self.owner_of(status) == (entry.uid, entry.gid)

    def _guest_id(self, number: int, own: int) -> int:
        if number == own:
            return 0
        if self.first_id is not None and number >= self.first_id:
            return number - self.first_id + 1
        return number

    def _has_usable_mode(self, entry: MtreeEntry, mode: int) -> bool:
        """Return whether a mode is the one that a user's file gets in place of the image's."""
        return not self.has_image_owners and mode == WITHOUT_ROOT.mode(entry.kind, entry.mode)

    def _has_other_content(self, path: bytes, entry: MtreeEntry, file: WalkedFile) -> bool:
        status = file.stat
        if path in self.generated and _read(file, len(self.generated[path]) + 1) == self.generated[path]:
            return False
        if status.st_size != entry.size:
            return True
        has_time = status.st_mtime_ns == entry.mtime
        written = self.header.written
        is_untouched = has_time and written is not None and status.st_ctime_ns < written
        if is_untouched and not self.reads_all:
            return False
        if not entry.digest:
            return not has_time
        try:
            with closing_descriptor(self._open(file)) as opened:
                return hash_file(opened) != entry.digest
        except PermissionError:  # the user has taken the permission away
            return not has_time
        except OSError as error:
            if self.reads_all and error.errno == errno.EIO:  # the disk has lost it: that is damage to be found
                return True
            raise

    def _open(self, file: WalkedFile) -> int:
        if self.opens_closed:
            return open_readable(file.directory, file.name, file.stat)
        return os.open(file.name, ANY_FILE, dir_fd=file.directory)


def content_of_link(link: WalkedFile, links: int) -> WalkedFile:
    """Return the file that a hard link of Termux's proot stands for, by two symlinks; the link itself if it is none."""
    name = os.readlink(link.name, dir_fd=link.directory)
    for _ in range(2):
        name = os.path.basename(name)
        if not name.startswith(PREFIX):
            return link
        try:
            status = os.stat(name, dir_fd=links, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                return WalkedFile(name, links, status)
            name = os.readlink(name, dir_fd=links)
        except OSError:
            return link
    return link


def _read(file: WalkedFile, limit: int) -> bytes:
    """Return up to `limit` bytes of a file; nothing where it can't be read."""
    try:
        with closing_descriptor(os.open(file.name, ANY_FILE, dir_fd=file.directory)) as opened:
            return os.read(opened, limit)
    except PermissionError:
        return b""
