"""Reads the database of rpm: headers of installed packages.

Its format is SQLite's, as in Fedora 33 and RHEL 9, or an older one (see `berkeley`). That of a header is in rpm's
`format_header.md`: an index of tags, then the data that it points to.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.rootfs.berkeley import read_berkeley
from provisioner.rootfs.tree import Tree

_PLACES = (b"usr/lib/sysimage/rpm/", b"var/lib/rpm/")
_SQLITE = b"rpmdb.sqlite"
_BERKELEY = b"Packages"
HISTORIES = (b"usr/lib/sysimage/libdnf5", b"usr/lib/sysimage/dnf/history.sqlite", b"var/lib/dnf/history.sqlite")
_LARGEST = 512 << 20
"""The most bytes of a database that are read."""
_NAME, _DIGESTS, _FLAGS, _INDEXES, _BASENAMES, _DIRNAMES, _ALGORITHM = 1000, 1035, 1037, 1116, 1117, 1118, 5011
_USERS, _GROUPS = 1039, 1040
"""The tags of rpmtag.h that are read."""
_CONFIGURATION = 1
"""The bit of rpmfileAttrs for a configuration file."""
_ALGORITHMS = {0: "md5", 1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512"}
"""Names of hashlib by the numbers of RFC 4880."""
_ROOT = (b"root", b"root")
_INT32, _STRING, _STRINGS, _TRANSLATED = 4, 6, 8, 9
_AUTOMATIC = (1, 4)
"""The reasons in the history of dnf for what other packages need or recommend."""


@dataclass(frozen=True)
class RpmPackage:
    """An installed package."""

    name: bytes
    files: tuple[bytes, ...]
    """Paths without a slash in front."""
    configuration: tuple[tuple[bytes, str, str], ...]
    """Of each configuration file: its path, the name of a hash, and the digest in hexadecimal."""
    owners: tuple[tuple[bytes, bytes, bytes], ...]
    """Of each file that doesn't belong to root: its path, and the names of its user and group."""


def read_rpm_packages(tree: Tree) -> list[RpmPackage] | None:
    """Return the installed packages; None where there is no database, or it can't be read. Raises OSError."""
    try:
        blobs = _read_headers(tree)
        return None if blobs is None else [parse_header(blob) for blob in blobs]
    except (struct.error, LookupError, ValueError):
        return None


def _read_headers(tree: Tree) -> list[bytes] | None:
    """Return the headers in the database; None where there is none. Raises as `read_berkeley`, and OSError."""
    for place in _PLACES:
        if (rows := _query(tree, place + _SQLITE, "Packages", "SELECT blob FROM Packages")) is not None:
            return [row[0] for row in rows if isinstance(row[0], bytes)]
    for place in _PLACES:
        if data := tree.read(place + _BERKELEY, _LARGEST):
            return read_berkeley(data)
    return None


def read_automatic(tree: Tree) -> set[bytes]:
    """Return the names of packages that dnf has installed because others need them. Raises OSError."""
    automatic = set()
    for path in HISTORIES[1:]:
        query = (
            "SELECT rpm.name, trans_item.reason FROM trans_item JOIN rpm ON rpm.item_id = trans_item.item_id "
            "ORDER BY trans_item.id"
        )
        reasons = dict(_query(tree, path, "trans_item", query) or ())
        automatic |= {str(name).encode() for name, reason in reasons.items() if reason in _AUTOMATIC}
    return automatic | _read_dnf5(tree)


def _read_dnf5(tree: Tree) -> set[bytes]:
    """Return the names of such packages by the files of dnf5."""
    import tomllib

    text = tree.read(HISTORIES[0] + b"/packages.toml", _LARGEST)
    try:
        packages = tomllib.loads((text or b"").decode()).get("packages", {})
        return {
            name.rpartition(".")[0].encode()
            for name, fields in packages.items()
            if fields.get("reason") in ("Dependency", "Weak Dependency")
        }
    except (ValueError, AttributeError, RecursionError):
        return set()


def _query(tree: Tree, path: bytes, table: str, query: str) -> list[tuple[Any, ...]] | None:
    """Return the rows of a query; None where there is no such database, table or SQLite."""
    database = tree.read(path, _LARGEST)
    if not database:
        return None
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return None
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "copy")
        copy.write_bytes(database)
        if log := tree.read(path + b"-wal", _LARGEST):
            Path(directory, "copy-wal").write_bytes(log)
        try:
            connection = sqlite3.connect(copy)
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                kinds = connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchall()
                return connection.execute(query).fetchall() if kinds == [("table",)] else None
            finally:
                connection.close()
        except sqlite3.Error:
            return None


def parse_header(blob: bytes) -> RpmPackage:
    """Parse the header of an installed package. Raises struct.error, LookupError and ValueError for anything else."""
    header = _Header(blob)
    directories = [name.strip(b"/") for name in header.strings(_DIRNAMES)]
    files = [
        b"/".join(filter(None, (directories[index], name)))
        for index, name in zip(header.numbers(_INDEXES), header.strings(_BASENAMES), strict=True)
    ]
    algorithm = _ALGORITHMS.get(next(iter(header.numbers(_ALGORITHM)), 0), "")
    configuration = [
        (path, algorithm, digest.decode("ascii"))
        for path, digest, flags in zip(files, header.strings(_DIGESTS), header.numbers(_FLAGS), strict=False)
        if flags & _CONFIGURATION and digest and algorithm
    ]
    owners = [
        owned
        for owned in zip(files, header.strings(_USERS), header.strings(_GROUPS), strict=False)
        if owned[1:] != _ROOT
    ]
    return RpmPackage(header.strings(_NAME)[0], tuple(filter(None, files)), tuple(configuration), tuple(owners))


class _Header:
    """The tags of a header."""

    def __init__(self, blob: bytes) -> None:
        count, size = struct.unpack_from(">II", blob)
        self._index = {
            tag: (kind, offset, number)
            for tag, kind, offset, number in struct.iter_unpack(">IIII", blob[8 : 8 + 16 * count])
        }
        self._data = blob[8 + 16 * count : 8 + 16 * count + size]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the numbers of 32 bits of a tag; none where it is missing."""
        kind, offset, number = self._index.get(tag, (_INT32, 0, 0))
        if kind != _INT32 or number * 4 > len(self._data):
            raise ValueError(f"tag {tag}")
        return struct.unpack_from(f">{number}I", self._data, offset)

    def strings(self, tag: int) -> list[bytes]:
        """Return the texts of a tag; none where it is missing."""
        kind, offset, number = self._index.get(tag, (_STRINGS, 0, 0))
        if kind not in (_STRING, _STRINGS, _TRANSLATED):
            raise ValueError(f"tag {tag}")
        return list(self._split(offset, number))

    def _split(self, start: int, number: int) -> Iterator[bytes]:
        for _ in range(number):
            end = self._data.index(b"\0", start)
            yield self._data[start:end]
            start = end + 1
