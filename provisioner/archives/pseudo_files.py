"""Turns what `unsquashfs -pf` writes into a tar archive (mksquashfs(1), "Pseudo file definitions").

It is a line for each file, with its metadata, and then the contents of all regular files in that order. So a squashfs
goes the same way as any archive, and unsquashfs, which reads what strangers have made, writes no files.
"""

from __future__ import annotations

import base64
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress

from provisioner.archives.fields import BLOCK
from provisioner.archives.stream import StreamReader, unreadable
from provisioner.errors import MachineError

_MARK = b"\n#\n# START OF DATA - DO NOT MODIFY\n#\n"
_LINES_LIMIT = 256 << 20
"""The most bytes of lines, which are in memory."""
_PIECE = 1 << 18
_LINE = re.compile(rb"((?:\\.|[^\\ ])+) ([A-Za-z]) ?([^\n]*)", re.DOTALL)
"""Name, type and fields. In names there is a backslash before spaces, quotes and backslashes, not before newlines."""
_KINDS = {
    b"D": tarfile.DIRTYPE,
    b"S": tarfile.SYMTYPE,
    b"C": tarfile.CHRTYPE,
    b"B": tarfile.BLKTYPE,
    b"R": tarfile.REGTYPE,
}


def tar_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the tar archive of the pseudo files in `chunks`. Raises MalformedImage and MachineError."""
    lines, reader = _split(chunks)
    xattrs = _xattrs(lines)
    at = 0
    for match in _matches(lines):
        path, letter, rest = _plain(match[1]), match[2], match[3]
        if letter in b"xX":
            continue
        header = tarfile.TarInfo(_text(path.strip(b"/") or b"."))
        offset = _describe(header, letter, rest)
        header.pax_headers = xattrs.get(path, {})
        if header.type is not None:
            yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if header.size:
            if offset != at:
                raise unreadable("the contents of files are not in their order")
            yield from _content(reader, header.size)
            at += header.size
    yield bytes(2 * BLOCK)


def files_of(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield path and size of each of the pseudo files in `chunks`, without their contents.

    Raises MalformedImage and MachineError.
    """
    lines, _ = _split(chunks)
    for match in _matches(lines):
        if match[2] not in b"xX":
            header = tarfile.TarInfo()
            _describe(header, match[2], match[3])
            yield _plain(match[1]).strip(b"/"), header.size


def _split(chunks: Iterable[bytes]) -> tuple[bytes, StreamReader]:
    """Return the lines, and the reader of the contents behind them."""
    source, head = iter(chunks), bytearray()
    for chunk in source:
        start = max(0, len(head) - len(_MARK))
        head += chunk
        end = head.find(_MARK, start)
        if end >= 0:
            rest = bytes(head[end + len(_MARK) :])
            return bytes(head[: end + 1]), StreamReader(_joined(rest, source))
        if len(head) > _LINES_LIMIT:
            raise MachineError("the squashfs has too many files", "unpack it with unsquashfs, and archive it with tar")
    return bytes(head), StreamReader(())


def _joined(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _matches(lines: bytes) -> Iterator[re.Match[bytes]]:
    """Yield a match for each line. Raises MalformedImage."""
    at = 0
    while at < len(lines):
        match = _LINE.match(lines, at)
        if match is None or lines[match.end() : match.end() + 1] not in (b"\n", b""):
            raise unreadable("unsquashfs describes a file in a way that isn't known")
        yield match
        at = match.end() + 1


def _describe(header: tarfile.TarInfo, letter: bytes, rest: bytes) -> int:
    """Set the fields of a header by a line, and return the offset of the content."""
    if letter == b"L":
        header.type, header.linkname = tarfile.LNKTYPE, _text(_plain(rest).strip(b"/"))
        return 0
    words = rest.split(b" ", 4)
    try:
        header.mtime, header.mode = int(words[0]), int(words[1], 8)
        header.uid, header.gid = int(words[2]), int(words[3])
        more = words[4:]
        if letter == b"I":  # of a socket, which means nothing outside of its machine, tar has no type
            header.type = tarfile.FIFOTYPE
            return 0
        header.type = _KINDS[letter]
        if letter == b"S":
            header.linkname = _text(more[0])
        elif letter in b"BC":
            header.devmajor, header.devminor = (int(word) for word in more[0].split()[:2])
        elif letter == b"R":
            header.size, offset = (int(word) for word in more[0].split()[:2])
            return offset
    except (ValueError, IndexError, KeyError):
        raise unreadable("unsquashfs describes a file in a way that isn't known") from None
    return 0


def _xattrs(lines: bytes) -> dict[bytes, dict[str, str]]:
    """Return the extended attributes by path, which unsquashfs 4.6 and later writes, as pax records."""
    found: dict[bytes, dict[str, str]] = {}
    for match in _matches(lines):
        if match[2] in b"xX":
            name, _, value = match[3].partition(b"=")
            with suppress(ValueError):
                content = base64.b64decode(value[2:], validate=True) if value.startswith(b"0s") else None
                content = bytes.fromhex(value[2:].decode()) if value.startswith(b"0x") else content
                content = _unescaped(value) if content is None else content
                records = found.setdefault(_plain(match[1]), {})
                records[f"SCHILY.xattr.{_text(name)}"] = _text(content)
    return found


def _unescaped(value: bytes) -> bytes:
    """Return a value in text form: a prefix 0t, and bytes as backslash and three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), value.removeprefix(b"0t"))


def _content(reader: StreamReader, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = reader.read_piece(min(left, _PIECE))
        left -= len(piece)
        yield bytes(piece)
    if size % BLOCK:
        yield bytes(BLOCK - size % BLOCK)


def _plain(name: bytes) -> bytes:
    """Return a name without the backslashes in front of spaces and the like."""
    return re.sub(rb"\\(.)", rb"\1", name, flags=re.DOTALL)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
