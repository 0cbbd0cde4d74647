"""The format of ownership.mtree: mtree(5), as bsdtar, go-mtree and NetBSD's mtree read it.

Each file has a line `NAME KEYWORD=VALUE…` below the line of its directory, and a line `..` ends a directory. There are
no paths, so that the record stays small however deep the tree is. Extended attributes are comments above the line of
their file, `# xattr.NAME=BASE64` with the name of go-mtree's keyword, because bsdtar refuses unknown keywords.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from provisioner.errors import MachineError
from provisioner.filesystem.kind import FILE_TYPES, Kind

HEADER = b"#mtree\n"
DIRECTORY_END = b"..\n"
_XATTR_MAX = 65536
"""The longest value of an attribute that Linux takes, in bytes (xattr(7)). Longer ones are left out."""

_SPECIAL = re.compile(rb"[^!-~]|[#*=?\[\\]")
_PLAIN = bytes(byte for byte in range(256) if not _SPECIAL.match(bytes([byte])))
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_WORDS = {kind: kind.value.encode() for kind in FILE_TYPES}
_KINDS = {word: kind for kind, word in _WORDS.items()}


class MtreeEntry(NamedTuple):
    """What the record says about a file."""

    name: bytes
    kind: Kind
    """Any but HARDLINK."""
    mode: int
    """The permission bits, without the file type."""
    uid: int
    gid: int
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""

    @property
    def is_directory(self) -> bool:
        """Return whether the content of this directory follows."""
        return self.kind is Kind.DIRECTORY


def encode_name(name: bytes) -> bytes:
    """Return `name` as vis(3) encodes it with VIS_OCTAL, VIS_WHITE and VIS_GLOB, and `=` encoded too."""
    if not name.translate(None, _PLAIN):
        return name
    return _SPECIAL.sub(lambda special: b"\\%03o" % special[0][0], name)


def decode_name(text: bytes) -> bytes:
    """Return the name that `encode_name` has encoded as `text`."""
    return _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), text)


def format_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the comments that hold a file's extended attributes."""
    return b"".join(
        b"# xattr.%s=%s\n" % (encode_name(name), base64.b64encode(value))
        for name, value in xattrs
        if len(value) <= _XATTR_MAX
    )


def format_entry(entry: MtreeEntry, mtime: int, *, size: int = 0, links: int = 1, target: bytes = b"") -> bytes:
    """Return the line of a file.

    `mtime` is in nanoseconds since 1970, `size` in bytes; `links` is the number of hard links and `target` that of a
    symlink. Devices are marked as optional, so that bsdtar accepts the empty files in their place.
    """
    kind = entry.kind
    words = encode_name(entry.name) + format_words(kind, entry.mode, entry.uid, entry.gid, mtime)
    if kind is Kind.FILE:
        words += b" size=%d" % size
    elif kind is Kind.SYMLINK:
        words += b" link=" + encode_name(target)
    elif kind is Kind.CHARACTER or kind is Kind.BLOCK:
        words += b" device=native,%d,%d optional" % entry.device
    if links > 1 and kind is not Kind.DIRECTORY:
        words += b" nlink=%d" % links
    return words + b"\n"


@lru_cache(1024)
def format_words(kind: Kind, mode: int, uid: int, gid: int, mtime: int) -> bytes:
    """Return the keywords of any file, each with a space in front of it. Many files of an image have the same."""
    return b" type=%s mode=%04o uid=%d gid=%d time=%d.%09d" % (_WORDS[kind], mode, uid, gid, *divmod(mtime, 10**9))


def parse_entries(lines: Iterable[bytes]) -> Iterator[MtreeEntry | None]:
    """Yield the entries of a record that this module has written, and None for the end of each directory.

    Raises MachineError where a line can't be read, or the end is missing.
    """
    depth = 0
    for line in lines:
        if line.startswith(b"#"):
            continue
        entry = None if line == DIRECTORY_END else _parse(line)
        yield entry
        depth += -1 if entry is None else entry.is_directory
        if not depth:
            return
    raise _damaged()


def _parse(line: bytes) -> MtreeEntry:
    try:
        name, *words = line.split()
        values = dict(word.partition(b"=")[::2] for word in words)
        _, major, minor = values.get(b"device", b"native,0,0").split(b",")
        device = (int(major), int(minor))
        kind, mode = _KINDS[values[b"type"]], int(values[b"mode"], 8)
        return MtreeEntry(decode_name(name), kind, mode, int(values[b"uid"]), int(values[b"gid"]), device)
    except (ValueError, KeyError) as error:
        raise _damaged() from error


def _damaged() -> MachineError:
    return MachineError("the ownership record is damaged", "provision again, with --force")
