"""What the package manager of a rootfs says is installed, read from its database: nothing of the rootfs is run."""

from __future__ import annotations

import base64
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from provisioner.rootfs.rpm import read_automatic, read_rpm_packages
from provisioner.rootfs.tree import Tree

_LARGEST = 64 << 20
"""The most bytes that are read of a file."""
_APK_DIGEST = 20
"""The bytes of a checksum of apk: a SHA-1, or of packages in the format of apk 3 the beginning of a SHA-256."""
_NAME = re.compile(rb"[A-Za-z0-9@_][A-Za-z0-9@._+:-]*")


@dataclass(frozen=True)
class Packages:
    """The packages of a rootfs."""

    manager: str
    """`apt`, `apk`, `pacman`, or `dnf` where rpm has a database and dnf, microdnf or yum is there."""
    installed: frozenset[bytes]
    """The names of all packages."""
    by_hand: frozenset[bytes]
    """Those that somebody has asked for; the others were installed because these need them."""


@dataclass(frozen=True)
class PackagedContent:
    """The content that a package gives a file, by its digest."""

    algorithms: tuple[str, ...]
    """Names of hashlib: the database doesn't say which of them it is."""
    digest: str
    """In hexadecimal; of a longer hash it is the beginning."""

    def is_of(self, content: bytes) -> bool:
        """Return whether a file with this content is as the package has it."""
        return any(
            hashlib.new(name, content, usedforsecurity=False).hexdigest().startswith(self.digest)
            for name in self.algorithms
        )


def read_packages(tree: Tree) -> Packages | None:
    """Return the packages of a rootfs, None where it has none of the four package managers. Raises OSError."""
    for manager, database in _DATABASES.items():
        if (found := database(tree).packages()) is not None:
            installed, automatic = ({name for name in names if _NAME.fullmatch(name)} for names in found)
            return Packages(manager, frozenset(installed), frozenset(installed - automatic))
    return None


def read_owned_paths(tree: Tree, manager: str) -> Iterator[bytes]:
    """Yield the paths of the files that packages own, without a slash in front and without symlinks above them.

    Raises OSError.
    """
    real: dict[bytes, bytes] = {}
    for path in _DATABASES[manager](tree).paths():
        above, _, name = path.rpartition(b"/")
        if above not in real:  # packages may still say /bin where that leads to /usr/bin
            real[above] = tree.resolve(above) or above
        yield real[above] + b"/" + name if above else name


def read_defaults(tree: Tree, manager: str) -> dict[bytes, PackagedContent]:
    """Return the configuration files of packages as these have them, by their paths. Raises OSError."""
    return dict(_DATABASES[manager](tree).defaults())


class _Found(NamedTuple):
    """Names of packages."""

    installed: set[bytes]
    automatic: set[bytes]
    """Those of them, and perhaps others, that were installed because others need them."""


class _Database(ABC):
    """The database of a package manager in a tree. Methods raise OSError."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @abstractmethod
    def packages(self) -> _Found | None:
        """Return the packages; None where the tree has no such database."""

    @abstractmethod
    def paths(self) -> Iterator[bytes]:
        """Yield the paths of the files that packages own, without a slash in front."""

    @abstractmethod
    def defaults(self) -> Iterator[tuple[bytes, PackagedContent]]:
        """Yield the path of each configuration file, and its content."""


class _Apt(_Database):
    _DPKG, _STATES = b"var/lib/dpkg", b"var/lib/apt/extended_states"

    def packages(self) -> _Found | None:
        status = self._tree.read(self._DPKG + b"/status", _LARGEST)
        if status is None:
            return None
        installed = {
            fields[b"Package"]
            for fields in _paragraphs(status)
            if fields.get(b"Status", b"").endswith(b" installed") and b"Package" in fields
        }
        automatic = {
            fields[b"Package"]
            for fields in _paragraphs(self._tree.read(self._STATES, _LARGEST) or b"")
            if fields.get(b"Auto-Installed") == b"1" and b"Package" in fields
        }
        return _Found(installed, automatic)

    def paths(self) -> Iterator[bytes]:
        for name in list(self._tree.list_directory(self._DPKG + b"/info")):
            if name.endswith(b".list"):
                yield from _paths(self._tree.read(self._DPKG + b"/info/" + name, _LARGEST) or b"")

    def defaults(self) -> Iterator[tuple[bytes, PackagedContent]]:
        status = self._tree.read(self._DPKG + b"/status", _LARGEST) or b""
        for path, digest in re.findall(rb"^ /(\S+) ([0-9a-f]{32})(?: [a-z-]+)*$", status, re.MULTILINE):
            yield path, PackagedContent(("md5",), digest.decode())


class _Apk(_Database):
    _PLACES = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")

    def packages(self) -> _Found | None:
        database = self._read()
        if not database:
            return None
        installed = {line[2:] for line in database.splitlines() if line.startswith(b"P:")}
        world = (self._tree.read(b"etc/apk/world", _LARGEST) or b"").split()
        asked = {re.split(rb"[<>=~@]", name)[0] for name in world if not name.startswith(b"!")}
        return _Found(installed, installed - asked)

    def paths(self) -> Iterator[bytes]:
        return (path for path, _ in self._files())

    def defaults(self) -> Iterator[tuple[bytes, PackagedContent]]:
        for path, checksum in self._files():
            if content := _parse_apk_checksum(checksum):
                yield path, content

    def _files(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the path of each file of a package, and its checksum, such as `Q1…`; empty where it has none."""
        directory = path = b""
        for line in (*self._read().splitlines(), b"R:"):
            if line.startswith((b"F:", b"R:", b"P:")) and path:
                yield path, b""
                path = b""
            if line.startswith(b"F:"):
                directory = line[2:] + b"/" if line[2:] else b""
            elif line.startswith(b"R:") and line[2:]:
                path = directory + line[2:]
            elif line.startswith(b"Z:") and path:
                yield path, line[2:]
                path = b""

    def _read(self) -> bytes:
        return next((text for path in self._PLACES if (text := self._tree.read(path, _LARGEST))), b"")


class _Pacman(_Database):
    _LOCAL = b"var/lib/pacman/local"

    def packages(self) -> _Found | None:
        installed, automatic = set(), set()
        for text in self._read_all(b"desc"):
            if found := re.search(rb"^%NAME%\n(.+)$", text, re.MULTILINE):
                installed.add(found[1])
                if re.search(rb"^%REASON%\n1$", text, re.MULTILINE):
                    automatic.add(found[1])
        return _Found(installed, automatic) if installed else None

    def paths(self) -> Iterator[bytes]:
        for text in self._read_all(b"files"):
            yield from (path for path in _paths(text.split(b"%BACKUP%")[0]) if not path.startswith(b"%"))

    def defaults(self) -> Iterator[tuple[bytes, PackagedContent]]:
        for text in self._read_all(b"files"):
            for path, digest in re.findall(rb"^(.+)\t([0-9a-f]{32})$", text.partition(b"%BACKUP%")[2], re.MULTILINE):
                yield path, PackagedContent(("md5",), digest.decode())

    def _read_all(self, name: bytes) -> Iterator[bytes]:
        """Yield the file of this name of each package; an empty text where it is missing."""
        for package in list(self._tree.list_directory(self._LOCAL)):
            yield self._tree.read(self._LOCAL + b"/" + package + b"/" + name, _LARGEST) or b""


class _Dnf(_Database):
    _PROGRAMS = (b"usr/bin/dnf", b"usr/bin/microdnf", b"usr/bin/yum")

    def packages(self) -> _Found | None:
        if all(self._tree.read(program, 1) is None for program in self._PROGRAMS):  # openSUSE has rpm's database, too
            return None
        packages = read_rpm_packages(self._tree)
        if packages is None:
            return None
        return _Found({package.name for package in packages}, read_automatic(self._tree))

    def paths(self) -> Iterator[bytes]:
        for package in read_rpm_packages(self._tree) or ():
            yield from package.files

    def defaults(self) -> Iterator[tuple[bytes, PackagedContent]]:
        for package in read_rpm_packages(self._tree) or ():
            for path, name, digest in package.configuration:
                yield path, PackagedContent((name,), digest)


def _parse_apk_checksum(checksum: bytes) -> PackagedContent | None:
    """Return what a checksum of apk says, such as `Q1…`; None for one that can't be read."""
    if not checksum.startswith(b"Q1"):
        return None
    try:
        digest = base64.b64decode(checksum[2:], validate=True)
    except ValueError:
        return None
    return PackagedContent(("sha1", "sha256"), digest.hex()) if len(digest) == _APK_DIGEST else None


def _paths(text: bytes) -> Iterator[bytes]:
    return (path for line in text.splitlines() if (path := line.strip(b"/").removeprefix(b"./")))


def _paragraphs(text: bytes) -> Iterator[dict[bytes, bytes]]:
    for paragraph in text.split(b"\n\n"):
        pairs = (line.split(b": ", 1) for line in paragraph.splitlines() if b": " in line and line[:1] != b" ")
        yield {key: value.strip() for key, value in pairs}


_DATABASES: Mapping[str, type[_Database]] = {"apt": _Apt, "apk": _Apk, "pacman": _Pacman, "dnf": _Dnf}
