"""What the package manager of a rootfs says is installed, read from its database: nothing of the rootfs is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from provisioner.rootfs.tree import Tree

_LARGEST = 64 << 20
"""The most bytes that are read of a file."""
_DPKG, _APT = b"var/lib/dpkg", b"var/lib/apt/extended_states"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_PACMAN = b"var/lib/pacman/local"
_NAME = re.compile(rb"[A-Za-z0-9@_][A-Za-z0-9@._+:-]*")


@dataclass(frozen=True)
class Packages:
    """The packages of a rootfs."""

    manager: str
    """`apt`, `apk` or `pacman`."""
    installed: frozenset[bytes]
    """The names of all packages."""
    by_hand: frozenset[bytes]
    """Those that somebody has asked for; the others were installed since these need them."""


def read_packages(tree: Tree) -> Packages | None:
    """Return the packages of a rootfs, None where it has none of the three package managers. Raises OSError."""
    for manager, read in _READERS.items():
        if (found := read(tree)) is not None:
            installed, automatic = ({name for name in names if _NAME.fullmatch(name)} for names in found)
            return Packages(manager, frozenset(installed), frozenset(installed - automatic))
    return None


def read_owned_paths(tree: Tree, manager: str) -> Iterator[bytes]:
    """Yield the paths of the files that packages own, without a slash in front. Raises OSError."""
    if manager == "apt":
        for name in list(tree.list_directory(_DPKG + b"/info")):
            if name.endswith(b".list"):
                yield from _paths(tree.read(_DPKG + b"/info/" + name, _LARGEST) or b"")
    elif manager == "apk":
        directory = b""
        for line in _first(tree, _APK).splitlines():
            if line.startswith(b"F:"):
                directory = line[2:] + b"/" if line[2:] else b""
            elif line.startswith(b"R:"):
                yield directory + line[2:]
    else:
        for name in list(tree.list_directory(_PACMAN)):
            yield from _paths(tree.read(_PACMAN + b"/" + name + b"/files", _LARGEST) or b"")


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


def _first(tree: Tree, paths: tuple[bytes, ...]) -> bytes:
    return next((text for path in paths if (text := tree.read(path, _LARGEST))), b"")


_READERS: dict[str, Callable[[Tree], _Found | None]] = {"apt": _read_apt, "apk": _read_apk, "pacman": _read_pacman}
