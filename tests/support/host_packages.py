"""Layers of what is installed on this machine: root file systems with other package managers, without a network.

Debian has dnf, rpm and pacman as packages. What dpkg says of them, and of what they depend on, makes a root file system
in which they run as in their own distributions, with databases and repositories that tests make.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from functools import cache
from pathlib import Path

from tests.support import builders
from tests.support.tools import run, unavailable

_LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/perl")
_MERGED = ("bin", "sbin", "lib", "lib64")


@cache
def host_layer(*names: str) -> builders.Layer:
    """The files of Debian packages that are installed here, and of all that they depend on, as one layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _MERGED:
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, f"usr/{name}", 0o777
            archive.addfile(link)
        for path in sorted(_files(_closure(names))):
            entry = archive.gettarinfo(path, path.lstrip("/"))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if entry.islnk():
                entry.type, entry.size = tarfile.REGTYPE, os.path.getsize(path)
            if entry.isreg():
                with open(path, "rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return builders.layer_of(buffer.getvalue())


def _closure(names: tuple[str, ...]) -> set[str]:
    """The names of packages and of those that they depend on."""
    query = "${Package}\\t${Status}\\t${Provides}\\t${Pre-Depends}, ${Depends}\\n"
    depends: dict[str, str] = {}
    providers: dict[str, str] = {}
    for line in run("dpkg-query", "--show", f"--showformat={query}").splitlines():
        name, status, provides, needed = line.split("\t")
        if status.endswith(" installed"):
            depends[name] = needed
            providers.update(dict.fromkeys(_names(provides), name))
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        name = name if name in depends else providers.get(name, "")
        if not name:
            continue
        if name not in found:
            found.add(name)
            for alternatives in depends[name].split(","):
                known = [one for one in _names(alternatives.replace("|", ",")) if one in depends or one in providers]
                pending += known[:1]
    for name in names:
        if name not in found:
            unavailable(f"{name} is missing: apt-get install {name}")
    return found


def _names(text: str) -> list[str]:
    return [found[0] for part in text.split(",") if (found := re.match(r"[a-z0-9][a-z0-9.+-]*", part.strip()))]


def _files(packages: set[str]) -> set[str]:
    """The paths of their files, without symlinks above them."""
    found = set()
    for path in run("dpkg-query", "--listfiles", *sorted(packages)).splitlines():
        if path.startswith("/") and not path.startswith(_LEFT_OUT) and os.path.lexists(path):
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if real.strip("/") not in _MERGED and (os.path.islink(real) or Path(real).is_file()):
                found.add(real)
    return found
