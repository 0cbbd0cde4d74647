"""What the package manager of a rootfs says is installed, read from its database: nothing of the rootfs is run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from provisioner.rootfs.rpm import read_automatic, read_rpm_packages
from provisioner.rootfs.tree import Tree

_LARGEST = 64 << 20
"""The most bytes that are read of a file."""
_DPKG, _APT = b"var/lib/dpkg", b"var/lib/apt/extended_states"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_APK_DIGEST = 20
"""The bytes of a checksum of apk: a SHA-1, or of packages in the format of apk 3 the beginning of a SHA-256."""
_PACMAN = b"var/lib/pacman/local"
_DNF = (b"usr/bin/dnf", b"usr/bin/microdnf", b"usr/bin/yum")
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
    for manager, read in _READERS.items():
        if (found := read(tree)) is not None:
            installed, automatic = ({name for name in names if _NAME.fullmatch(name)} for names in found)
            return Packages(manager, frozenset(installed), frozenset(installed - automatic))
    return None


def read_owned_paths(tree: Tree, manager: str) -> Iterator[bytes]:
    """Yield the paths of the files that packages own, without a slash in front and without symlinks above them.

    Raises OSError.
    """
    real: dict[bytes, bytes] = {}
    for path in _read_paths(tree, manager):
        above, _, name = path.rpartition(b"/")
        if above not in real:  # packages may still say /bin where that leads to /usr/bin
            real[above] = tree.resolve(above) or above
        yield real[above] + b"/" + name if above else name


def _read_paths(tree: Tree, manager: str) -> Iterator[bytes]:
    if manager == "apt":
        for name in list(tree.list_directory(_DPKG + b"/info")):
            if name.endswith(b".list"):
                yield from _paths(tree.read(_DPKG + b"/info/" + name, _LARGEST) or b"")
    elif manager == "apk":
        yield from (path for path, _ in _apk_files(tree))
    elif manager == "dnf":
        for package in read_rpm_packages(tree) or ():
            yield from package.files
    else:
        for name in list(tree.list_directory(_PACMAN)):
            files = (tree.read(_PACMAN + b"/" + name + b"/files", _LARGEST) or b"").split(b"%BACKUP%")[0]
            yield from (path for path in _paths(files) if not path.startswith(b"%"))


def _apk_files(tree: Tree) -> Iterator[tuple[bytes, bytes]]:
    """Yield the path of each file of a package, and its checksum, such as `Q1…`; nothing where there is none."""
    directory = path = b""
    for line in (*_first(tree, _APK).splitlines(), b"R:"):
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


def _apk_content(checksum: bytes) -> PackagedContent | None:
    """Return what a checksum of apk says, such as `Q1…`; None for one that can't be read."""
    if not checksum.startswith(b"Q1"):
        return None
    try:
        digest = base64.b64decode(checksum[2:], validate=True)
    except ValueError:
        return None
    return PackagedContent(("sha1", "sha256"), digest.hex()) if len(digest) == _APK_DIGEST else None


def read_defaults(tree: Tree, manager: str) -> dict[bytes, PackagedContent]:
    """Return the configuration files of packages as these have them. Raises OSError."""
    found: dict[bytes, PackagedContent] = {}
    if manager == "apt":
        status = tree.read(_DPKG + b"/status", _LARGEST) or b""
        for path, digest in re.findall(rb"^ /(\S+) ([0-9a-f]{32})(?: [a-z-]+)*$", status, re.MULTILINE):
            found[path] = PackagedContent(("md5",), digest.decode())
    elif manager == "apk":
        for path, checksum in _apk_files(tree):
            if content := _apk_content(checksum):
                found[path] = content
    elif manager == "dnf":
        for package in read_rpm_packages(tree) or ():
            found.update((path, PackagedContent((name,), digest)) for path, name, digest in package.configuration)
    else:
        for name in list(tree.list_directory(_PACMAN)):
            text = tree.read(_PACMAN + b"/" + name + b"/files", _LARGEST) or b""
            for path, digest in re.findall(rb"^(.+)\t([0-9a-f]{32})$", text.partition(b"%BACKUP%")[2], re.MULTILINE):
                found[path] = PackagedContent(("md5",), digest.decode())
    return found


def _paths(text: bytes) -> Iterator[bytes]:
    return (path for line in text.splitlines() if (path := line.strip(b"/").removeprefix(b"./")))


_Found = tuple[set[bytes], set[bytes]]
"""The installed packages, and those of them that were installed automatically."""


def _read_apt(tree: Tree) -> _Found | None:
    status = tree.read(_DPKG + b"/status", _LARGEST)
    if status is None:
        return None
    installed = {
        fields[b"Package"]
        for fields in _paragraphs(status)
        if fields.get(b"Status", b"").endswith(b" installed") and b"Package" in fields
    }
    automatic = {
        fields[b"Package"]
        for fields in _paragraphs(tree.read(_APT, _LARGEST) or b"")
        if fields.get(b"Auto-Installed") == b"1" and b"Package" in fields
    }
    return installed, automatic


def _paragraphs(text: bytes) -> Iterator[dict[bytes, bytes]]:
    for paragraph in text.split(b"\n\n"):
        pairs = (line.split(b": ", 1) for line in paragraph.splitlines() if b": " in line and line[:1] != b" ")
        yield {key: value.strip() for key, value in pairs}


def _read_apk(tree: Tree) -> _Found | None:
    database = _first(tree, _APK)
    if not database:
        return None
    installed = {line[2:] for line in database.splitlines() if line.startswith(b"P:")}
    world = (tree.read(b"etc/apk/world", _LARGEST) or b"").split()
    asked = {re.split(rb"[<>=~@]", name)[0] for name in world if not name.startswith(b"!")}
    return installed, installed - asked


def _read_pacman(tree: Tree) -> _Found | None:
    installed, automatic = set(), set()
    for name in list(tree.list_directory(_PACMAN)):
        text = tree.read(_PACMAN + b"/" + name + b"/desc", _LARGEST) or b""
        if found := re.search(rb"^%NAME%\n(.+)$", text, re.MULTILINE):
            installed.add(found[1])
            if re.search(rb"^%REASON%\n1$", text, re.MULTILINE):
                automatic.add(found[1])
    return (installed, automatic) if installed else None


def _read_rpm(tree: Tree) -> _Found | None:
    if all(tree.read(program, 1) is None for program in _DNF):  # openSUSE has rpm's database, too
        return None
    packages = read_rpm_packages(tree)
    if packages is None:
        return None
    return {package.name for package in packages}, read_automatic(tree)


def _first(tree: Tree, paths: tuple[bytes, ...]) -> bytes:
    return next((text for path in paths if (text := tree.read(path, _LARGEST))), b"")


_READERS: dict[str, Callable[[Tree], _Found | None]] = {
    "apt": _read_apt,
    "apk": _read_apk,
    "pacman": _read_pacman,
    "dnf": _read_rpm,
}
