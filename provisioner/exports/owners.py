"""The owners of files that the ownership record doesn't know, where the disk doesn't have them.

They are from, in this order: the package databases of apk, dpkg, pacman and rpm; the home directory that /etc/passwd
names; the owner of the directory; root.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from contextlib import suppress
from functools import cached_property

from provisioner.errors import MalformedImage
from provisioner.filesystem.descriptors import ANY_FILE, DIRECTORY, closing_descriptor
from provisioner.ownership.mtree import decode_name
from provisioner.rootfs.rpm import read_rpm_packages
from provisioner.rootfs.tree import Tree

Owner = tuple[int, int]
ROOT: Owner = (0, 0)

_LARGEST = 16 << 20
"""The most bytes of a database that are read."""
_MOST_FILES = 1_000_000
"""After so many files of packages no further database is read."""
_GZIP_WINDOW = 31  # zlib's wbits for the gzip format
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_STATOVERRIDE = b"var/lib/dpkg/statoverride"
_PACMAN = b"var/lib/pacman/local"
_PACMAN_LINE = re.compile(rb"(\./\S+|/set)((?: \S+)*)")


class OwnerSource:
    """Owners in the container whose rootfs is open, for a walk that calls `enter` and `leave` for each directory."""

    def __init__(self, rootfs: int) -> None:
        self._rootfs = rootfs
        self._above: list[Owner] = []
        """The owners of the directories that the walk is in."""
        self.counts: Counter[str] = Counter()
        """How many files got their owner from where, but for those of root."""

    def enter(self, path: bytes, uid: int, gid: int) -> None:
        """Note the owner of the directory `path`, whose content comes next."""
        self._above.append((uid, gid))

    def leave(self) -> None:
        """Note that a directory ends."""
        if self._above:
            self._above.pop()

    def find(self, path: bytes) -> Owner:
        """Return the owner of a file that was made in the container, by its path from the rootfs."""
        for source, known in (("package databases", self._packages), ("home directories", self._homes)):
            if path in known:
                return self._count(source, known[path])
        above = self._above[-1] if self._above else ROOT
        return self._count("directory", above) if above != ROOT else ROOT

    def _count(self, source: str, owner: Owner) -> Owner:
        self.counts[source] += owner != ROOT
        return owner

    @cached_property
    def _packages(self) -> dict[bytes, Owner]:
        known: dict[bytes, Owner] = {}
        for path in _APK:
            known |= parse_apk(self._read(path))
        known |= self._pacman()
        known |= self._rpm()
        known |= parse_statoverride(self._read(_STATOVERRIDE), self._users, self._groups)
        return known

    @cached_property
    def _homes(self) -> dict[bytes, Owner]:
        """The home directories below /home and the like, of users other than root."""
        homes = {}
        for fields in _lines(self._read(b"etc/passwd"), 7):
            home = fields[5].strip(b"/")
            with suppress(ValueError):
                owner = int(fields[2]), int(fields[3])
                if owner[0] and b"/" in home:
                    homes[home] = owner
        return homes

    @cached_property
    def _users(self) -> dict[bytes, int]:
        return _numbers(self._read(b"etc/passwd"), 7)

    @cached_property
    def _groups(self) -> dict[bytes, int]:
        return _numbers(self._read(b"etc/group"), 4)

    def _pacman(self) -> dict[bytes, Owner]:
        known: dict[bytes, Owner] = {}
        directory = self._open(_PACMAN, DIRECTORY)
        if directory < 0:
            return known
        with closing_descriptor(directory):
            for name in sorted(map(os.fsencode, os.listdir(directory))):
                if len(known) > _MOST_FILES:
                    break
                with suppress(zlib.error):
                    packed = self._read(_PACMAN + b"/" + name + b"/mtree")
                    known |= parse_pacman(zlib.decompressobj(_GZIP_WINDOW).decompress(packed, _LARGEST))
        return known

    def _rpm(self) -> dict[bytes, Owner]:
        known: dict[bytes, Owner] = {}
        with Tree(self._rootfs) as tree, suppress(OSError, MalformedImage):  # a database may say anything
            packages = read_rpm_packages(tree) or ()
            for path, user, group in (owned for package in packages for owned in package.owners):
                above, _, name = path.rpartition(b"/")
                real = tree.resolve(above) or above  # packages may still say /bin where that leads to /usr/bin
                owner = self._users.get(user, 0), self._groups.get(group, 0)
                known[b"/".join(filter(None, (real, name)))] = owner
        return known

    def _read(self, path: bytes) -> bytes:
        """Return the content of a regular file in the rootfs; nothing where there is none. No symlink is followed."""
        file = self._open(path, ANY_FILE)
        if file < 0:
            return b""
        with open(file, "rb") as opened:
            try:
                return opened.read(_LARGEST)
            except OSError:  # a directory
                return b""

    def _open(self, path: bytes, flags: int) -> int:
        """Open a file in the rootfs, and return -1 where that can't be. No symlink is followed."""
        *above, name = path.split(b"/")
        here = os.dup(self._rootfs)
        try:
            for part in above:
                there = os.open(part, DIRECTORY, dir_fd=here)
                os.close(here)
                here = there
            return os.open(name, flags, dir_fd=here)
        except OSError:
            return -1
        finally:
            os.close(here)


def parse_apk(data: bytes) -> dict[bytes, Owner]:
    """Return the owners of the files that apk's database `installed` names: its lines `M:` and `a:`."""
    known: dict[bytes, Owner] = {}
    directory, path = b"", b""
    for line in data.splitlines():
        key, value = line[:2], line[2:]
        if key == b"F:":
            directory = path = value
        elif key == b"R:":
            path = directory + b"/" + value if directory else value
        elif key in (b"M:", b"a:"):
            with suppress(ValueError):
                uid, gid, *_ = value.split(b":")
                known[path] = int(uid), int(gid)
    return known


def parse_statoverride(data: bytes, users: dict[bytes, int], groups: dict[bytes, int]) -> dict[bytes, Owner]:
    """Return the owners that dpkg's statoverride has: lines `USER GROUP MODE PATH`, with names or `#` and a number."""
    known = {}
    for line in data.splitlines():
        words = line.split(b" ", 3)
        if len(words) == 4:
            uid, gid = _number(words[0], users), _number(words[1], groups)
            if uid is not None and gid is not None:
                known[words[3].strip(b"/")] = uid, gid
    return known


def parse_pacman(data: bytes) -> dict[bytes, Owner]:
    """Return the owners in a package's mtree of pacman; `/set` has those of all lines below it."""
    known: dict[bytes, Owner] = {}
    defaults: dict[bytes, bytes] = {}
    for line in data.splitlines():
        match = _PACMAN_LINE.fullmatch(line)
        if not match:
            continue
        words = {key: value for key, _, value in (word.partition(b"=") for word in match[2].split())}
        if match[1] == b"/set":
            defaults |= words
            continue
        with suppress(ValueError, KeyError):
            words = defaults | words
            known[decode_name(match[1][2:])] = int(words[b"uid"]), int(words[b"gid"])
    return known


def _number(word: bytes, names: dict[bytes, int]) -> int | None:
    if word.startswith(b"#"):
        return int(word[1:]) if word[1:].isdigit() else None
    return names.get(word)


def _numbers(data: bytes, count: int) -> dict[bytes, int]:
    """Return the numbers by name in a passwd(5) or group(5) file, whose lines have `count` fields."""
    return {fields[0]: int(fields[2]) for fields in _lines(data, count) if fields[2].isdigit()}


def _lines(data: bytes, count: int) -> list[list[bytes]]:
    return [fields for line in data.splitlines() if len(fields := line.split(b":")) == count]
