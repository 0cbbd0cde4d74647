"""Reading tar archives from a stream: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU, sparse files included.

The parser is our own because it is on the path of every byte: the standard library's stream mode copies the content
three times and keeps every entry that it has met.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind
from provisioner.layers.stream import StreamReader
from provisioner.layers.stream import unreadable as _unreadable
from provisioner.terminal.escaping import printable

BLOCK = 512
_RECORDS_LIMIT = 1 << 20
"""The most bytes that a long name, a pax header or a sparse map may have."""
_NANOSECONDS = 2**63 - 1
_OWNERS = 2**32 - 1


class Entry(NamedTuple):
    """One entry. `path` and `target` are bytes as the archive has them; `mtime` counts nanoseconds since 1970.

    `mode` holds the permission bits, setuid, setgid and sticky; `size` is the size in bytes of a file when it is made,
    holes included; `extents` are the (offset, length) that the archive holds of a sparse file, None for others.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: bytes
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    extents: tuple[tuple[int, int], ...] | None


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"D": Kind.DIRECTORY,  # GNU incremental, with a list of names as content
    b"6": Kind.FIFO,
}
_OCTAL = re.compile(rb"[0-7]+").fullmatch
_FOR_ALL = (b"mtime", b"uid", b"gid")
"""The pax records that are taken from global headers. Others speak of one file, or would cost each entry much."""
_XATTR = b"SCHILY.xattr."
_MAY_BE_EMPTY = (_XATTR, b"GNU.sparse.")


class Archive:
    """The archive in a stream of chunks: iterate for its entries, call `content()` for what the last one holds."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._input = StreamReader(chunks)
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """The entries in order. Raises MalformedImage. An empty stream has none: some tools write such layers.

        The stream is read to its end. Zeros may follow on the end of the archive but nothing else: some readers would
        take it for more entries, others not.
        """
        while (entry := self._next()) is not None:
            yield entry
        if self._input.any_left():
            raise _unreadable("there is more behind its end")

    def content(self) -> Iterator[memoryview]:
        """The bytes of the entry that was given last, in pieces that are good until the next is asked for."""
        while self._left:
            piece = self._input.piece(self._left)
            self._left -= len(piece)
            yield piece

    def _next(self) -> Entry | None:
        """The next entry, with all the headers that lead up to it; None at the end."""
        records: dict[bytes, bytes] = {}  # a long name of GNU's is one too, which a real one goes before
        pairs: list[tuple[int, int]] = []  # what pax sparse 0.0 spells by repeating its records
        while (header := self._header()) is not None:
            flag = header[156:157]
            size = _number(header[124:136], "a size")
            if flag in (b"x", b"X"):
                found, pairs = _pax(self._take(size))
                records.update(found)
            elif flag == b"g":
                found, _ = _pax(self._take(size))
                self._global.update((key, found[key]) for key in _FOR_ALL if key in found)
            elif flag == b"L":
                records.setdefault(b"path", _text(self._take(size)))
            elif flag == b"K":
                records.setdefault(b"linkpath", _text(self._take(size)))
            elif flag == b"V":
                self._skip_content(size)  # a volume's label
            else:
                if records or self._global:
                    records = {**self._global, **records}
                    # An empty value takes a record back, but attributes and maps of holes may be empty.
                    records = {key: value for key, value in records.items() if value or key.startswith(_MAY_BE_EMPTY)}
                return self._entry(header, size, records, pairs)
        if records:
            raise _unreadable("it ends behind a header that describes the next one")
        return None

    def _header(self) -> bytes | None:
        """The next header block, its checksum verified; None at the end of the archive."""
        self._skip_content(0)
        header = self._input.exactly(BLOCK)
        if not header or not header.strip(b"\0"):
            return None
        if len(header) < BLOCK:
            raise _unreadable("it ends in the middle of a header")
        stored = _number(header[148:156], "a checksum")
        # The lower half of Adler-32 is the sum of the bytes modulo 65521, which C counts much faster than sum().
        total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * 32
        if (stored - total) % 65521 and stored != _signed(header):
            raise _unreadable("the checksum of a header is wrong")
        return header

    def _entry(self, header: bytes, size: int, records: dict[bytes, bytes], pairs: list[tuple[int, int]]) -> Entry:
        """The entry of a header, corrected by what came before it."""
        path = records.get(b"path")
        if path is None:
            path = _text(header[:100])
            if header[257:263] == b"ustar\0" and header[345]:
                path = _text(header[345:500]) + b"/" + path
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise MalformedImage(f"{printable(path[:300])}: entries of type {flag!r} are unknown")
        if kind is Kind.FILE:  # a sparse one's name in the header may be cut anywhere
            path = records.get(b"GNU.sparse.name", path)
        stored = _decimal(records, b"size", size) if kind is Kind.FILE or flag == b"D" else 0
        self._expect(stored)
        if path.endswith(b"/"):
            if kind is Kind.FILE and stored:  # which some readers skip and others take for headers
                raise MalformedImage(f"{printable(path[:300])}: it is a directory with content")
            kind = Kind.DIRECTORY if kind is Kind.FILE else kind  # how v7 spells it
            path = path.rstrip(b"/")
        size, extents = stored if kind is Kind.FILE else 0, None
        if kind is Kind.FILE and (records or flag == b"S"):
            size, extents = self._sparse(header, stored, records, pairs)
        return Entry(
            path,
            kind,
            _small(header[100:108], "a mode") & 0o7777,
            _owner(records.get(b"uid"), header[108:116]),
            _owner(records.get(b"gid"), header[116:124]),
            size,
            _mtime(records.get(b"mtime"), header[136:148]),
            records[b"linkpath"] if b"linkpath" in records else _text(header[157:257]),
            _device(header) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0),
            _xattrs(records) if records else (),
            extents,
        )

    def _sparse(
        self, header: bytes, stored: int, records: dict[bytes, bytes], pairs: list[tuple[int, int]]
    ) -> tuple[int, tuple[tuple[int, int], ...] | None]:
        """Size and extents of a file, which may be sparse in GNU's four ways."""
        if header[156:157] == b"S":
            size = _number(header[483:495], "a size")
            numbers = self._old_map(header)
        elif records.get(b"GNU.sparse.major") == b"1":
            size = _decimal(records, b"GNU.sparse.realsize", stored)
            numbers = self._leading_map()
        elif b"GNU.sparse.map" in records:
            size = _decimal(records, b"GNU.sparse.size", stored)
            numbers = _listed_map(records[b"GNU.sparse.map"])
        elif pairs:
            size = _decimal(records, b"GNU.sparse.size", stored)
            numbers = pairs
        else:
            return stored, None
        end = 0
        for offset, length in numbers:
            if offset < end or offset + length > size:
                raise _unreadable("a map of holes contradicts itself")
            end = offset + length
        if sum(length for _, length in numbers) != self._left:
            raise _unreadable("a map of holes doesn't fit what is stored")
        return size, tuple(numbers)

    def _old_map(self, header: bytes) -> list[tuple[int, int]]:
        """The map of GNU's old format, which goes on in blocks between header and content."""
        numbers = _old_pairs(header[386:482])
        more = header[482]
        while more:
            block = self._block()
            numbers += _old_pairs(block[:504])
            more = block[504]
            if len(numbers) * 24 > _RECORDS_LIMIT:
                raise _unreadable("a map of holes is too long")
        return numbers

    def _leading_map(self) -> list[tuple[int, int]]:
        """The map of pax sparse 1.0: decimal lines at the head of the content, filled up to whole blocks."""
        blocks: list[bytes] = []
        lines, wanted = 0, 1
        while lines < wanted:
            if self._left < BLOCK or len(blocks) * BLOCK > _RECORDS_LIMIT:
                raise _unreadable("a map of holes is too long")
            blocks.append(self._block())
            self._left -= BLOCK
            lines += blocks[-1].count(b"\n")
            if wanted == 1 and lines:
                wanted = 1 + 2 * _digits(b"".join(blocks).partition(b"\n")[0])
        numbers = [_digits(line) for line in b"".join(blocks).split(b"\n")[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _block(self) -> bytes:
        """A block of what describes an entry."""
        if len(block := self._input.exactly(BLOCK)) < BLOCK:
            raise _unreadable("it ends in the middle of a header")
        return block

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _take(self, size: int) -> bytes:
        """All of the content of a header that describes the next one."""
        if size > _RECORDS_LIMIT:
            raise _unreadable(f"a header has {size} bytes, {_RECORDS_LIMIT} is the most")
        self._expect(size)
        return b"".join(self.content())

    def _skip_content(self, size: int) -> None:
        """Go past what is left of the last entry, and `size` bytes of this one."""
        if size:
            self._expect(size)
        for _ in self.content():
            pass
        if self._padding:
            self._input.exactly(self._padding)  # the last padding may be missing
            self._padding = 0


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes, what: str) -> int:
    """A number of a header: octal digits, or base-256 where the first bit is set (GNU). Never negative but a time."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if value < 0 and what != "a time":
            raise _unreadable(f"{value} in a header is not {what}")
        return value
    # As Go reads them, and so do those who make images: NULs may also be in front.
    digits = field.strip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    if not digits:
        return 0
    if not _OCTAL(digits):
        raise _unreadable(f"{printable(digits)!r} in a header is not {what}")
    return int(digits, 8)


_small = lru_cache(4096)(_number)
"""For numbers that most entries share."""


def _signed(header: bytes) -> int:
    """The checksum as some old tars count it, with signed bytes."""
    return sum(byte - 256 if byte > 127 else byte for byte in header[:148] + b" " * 8 + header[156:])


def _digits(text: bytes) -> int:
    if not re.fullmatch(rb"\d{1,20}", text):
        raise _unreadable(f"{printable(text[:60])!r} in a header is not a number")
    return int(text)


def _device(header: bytes) -> tuple[int, int]:
    major, minor = _number(header[329:337], "a device"), _number(header[337:345], "a device")
    if major >= 2**12 or minor >= 2**20:
        raise _unreadable(f"{major}:{minor} in a header is not a device")
    return major, minor


def _decimal(records: dict[bytes, bytes], key: bytes, default: int) -> int:
    return _digits(records[key]) if key in records else default


def _owner(exact: bytes | None, field: bytes) -> int:
    owner = _small(field, "an owner") if exact is None else _digits(exact)
    if owner >= _OWNERS:
        raise _unreadable(f"{owner} in a header is not an owner")
    return owner


@lru_cache(4096)
def _mtime(exact: bytes | None, field: bytes) -> int:
    """Nanoseconds, held to what the kernel takes."""
    if exact is None:
        return max(-_NANOSECONDS, min(_NANOSECONDS, _number(field, "a time") * 10**9))
    match = re.fullmatch(rb"(-?)(\d{1,18})(?:\.(\d{0,30}))?", exact)
    if not match:
        raise _unreadable(f"{printable(exact[:60])!r} in a header is not a time")
    value = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return min(_NANOSECONDS, value) * (-1 if match[1] else 1)


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((key[len(_XATTR) :], value) for key, value in records.items() if key.startswith(_XATTR))


def _pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """The records of a pax header, `LENGTH KEY=VALUE\\n` each, and the pairs of a sparse map that repeats its keys."""
    records: dict[bytes, bytes] = {}
    numbers: list[int] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise _unreadable("a pax header is damaged")
        end = at + _digits(data[at:space])
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not equals or b"\0" in key or not record.endswith(b"\n"):
            raise _unreadable("a pax header is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(_digits(value))
        records[key] = value
        at = end
    if len(numbers) % 2:
        raise _unreadable("a pax header is damaged")
    return records, list(zip(numbers[::2], numbers[1::2], strict=True))


def _listed_map(text: bytes) -> list[tuple[int, int]]:
    numbers = [_digits(word) for word in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise _unreadable("a map of holes is damaged")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _old_pairs(data: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(data), 24):
        if not data[at]:
            break
        pairs.append((_number(data[at : at + 12], "a place"), _number(data[at + 12 : at + 24], "a place")))
    return pairs
