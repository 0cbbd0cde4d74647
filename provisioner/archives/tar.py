"""Reads tar archives from a stream: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU, with sparse files (tar(5)).

It doesn't use `tarfile` because every byte passes through here: tarfile's stream mode copies the content three times
and keeps every entry in memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from provisioner.archives.stream import Reader, StreamReader, unreadable
from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.times import time_limits
from provisioner.terminal.escaping import printable

BLOCK = 512
_METADATA_LIMIT = 1 << 20
"""The most bytes that a long name, a pax header or a sparse map may have."""
TIME_LIMITS = time_limits()
"""The earliest and the latest time of an entry, in nanoseconds since 1970. Others become these."""
_OWNER_LIMIT = 2**32 - 1


class Entry(NamedTuple):
    """One entry of an archive."""

    path: bytes
    """As it stands in the archive, without slashes at the end."""
    kind: Kind
    mode: int
    """The permission bits, setuid, setgid and sticky."""
    uid: int
    gid: int
    size: int
    """Of a regular file, in bytes, with its holes; 0 for others."""
    mtime: int
    """In nanoseconds since 1970."""
    target: bytes
    """Of a symlink or hard link, as it stands in the archive."""
    device: tuple[int, int]
    """Major and minor number of a device, (0, 0) for others."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    """Names and values."""
    extents: tuple[tuple[int, int], ...] | None
    """Offsets and lengths of the data that the archive stores of a sparse file, None for others."""


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
_ENDS = b" \0"
_OCTAL = re.compile(rb"[0-7]+").fullmatch
_GLOBAL_KEYS = (b"mtime", b"uid", b"gid")
"""The pax records that count in a global header. Others describe one file, or would slow down each entry."""
_XATTR = b"SCHILY.xattr."
_MAY_BE_EMPTY = (_XATTR, b"GNU.sparse.")


class Archive:
    """An archive in a stream of chunks. Iterate over it for the entries; `content()` reads the file of the last one."""

    def __init__(self, chunks: Iterable[bytes], reader: Reader | None = None) -> None:
        self._input = reader or StreamReader(chunks)
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order, and read the stream to its end. Raises MalformedImage.

        An empty stream has no entries: some tools write such layers. Behind the end of the archive only zeros are
        allowed: some readers would parse other data as more entries, others not.
        """
        while (entry := self._next_entry()) is not None:
            yield entry
        if self._input.drain():
            raise unreadable("there is more behind its end")

    def content(self) -> Iterator[memoryview]:
        """Yield the content of the last entry, in pieces that are valid until the next one is requested."""
        while self._left:
            piece = self._input.read_piece(self._left)
            self._left -= len(piece)
            yield piece

    def _next_entry(self) -> Entry | None:
        """Return the next entry, parsed from all of its headers; None at the end."""
        records: dict[bytes, bytes] = {}  # with GNU's long names, which pax records override
        pairs: list[tuple[int, int]] = []  # the sparse map of pax 0.0, which repeats its keys
        while (header := self._next_header()) is not None:
            flag = header[156:157]
            size = _parse_number(header[124:136], "a size")
            if flag in (b"x", b"X"):
                found, pairs = _parse_pax(self._read_metadata(size))
                records.update(found)
            elif flag == b"g":
                found, _ = _parse_pax(self._read_metadata(size))
                self._global.update((key, found[key]) for key in _GLOBAL_KEYS if key in found)
            elif flag == b"L":
                records.setdefault(b"path", _text(self._read_metadata(size)))
            elif flag == b"K":
                records.setdefault(b"linkpath", _text(self._read_metadata(size)))
            elif flag == b"V":
                self._skip_content(size)  # a volume label
            else:
                if records or self._global:
                    records = {**self._global, **records}
                    # An empty value removes a record, but extended attributes and sparse maps may be empty.
                    records = {key: value for key, value in records.items() if value or key.startswith(_MAY_BE_EMPTY)}
                return self._entry(header, size, records, pairs)
        if records:
            raise unreadable("it ends behind a header that describes the next one")
        return None

    def _next_header(self) -> bytes | None:
        """Return the next header block and verify its checksum; None at the end of the archive."""
        self._skip_content(0)
        header = self._input.read(BLOCK)
        if not header or not header.strip(b"\0"):
            return None
        if len(header) < BLOCK:
            raise unreadable("it ends in the middle of a header")
        if not has_right_checksum(header):
            raise unreadable("the checksum of a header is wrong")
        return header

    def _entry(self, header: bytes, size: int, records: dict[bytes, bytes], pairs: list[tuple[int, int]]) -> Entry:
        """Return the entry of a header and of the pax records that override its fields."""
        path = records.get(b"path")
        if path is None:
            path = _text(header[:100])
            if header[257:263] == b"ustar\0" and header[345]:
                path = _text(header[345:500]) + b"/" + path
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise MalformedImage(f"{printable(path[:300])}: entries of type {flag!r} are unknown")
        if kind is Kind.FILE:  # the header of a sparse file may have a truncated name
            path = records.get(b"GNU.sparse.name", path)
        stored = _decimal_record(records, b"size", size) if kind is Kind.FILE or flag == b"D" else 0
        self._begin_content(stored)
        if path.endswith(b"/"):
            if kind is Kind.FILE and stored:  # some readers skip the content, others parse it as headers
                raise MalformedImage(f"{printable(path[:300])}: it is a directory with content")
            kind = Kind.DIRECTORY if kind is Kind.FILE else kind  # as in v7 archives
            path = path.rstrip(b"/")
        size, extents = stored if kind is Kind.FILE else 0, None
        if kind is Kind.FILE and (records or flag == b"S"):
            size, extents = self._sparse(header, stored, records, pairs)
        return Entry(
            path,
            kind,
            _cached_number(header[100:108], "a mode") & 0o7777,
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
        """Return size and extents of a file, which may be sparse in one of GNU's four formats."""
        if header[156:157] == b"S":
            size = _parse_number(header[483:495], "a size")
            numbers = self._gnu_map(header)
        elif records.get(b"GNU.sparse.major") == b"1":
            size = _decimal_record(records, b"GNU.sparse.realsize", stored)
            numbers = self._pax_1_0_map()
        elif b"GNU.sparse.map" in records:
            size = _decimal_record(records, b"GNU.sparse.size", stored)
            numbers = _pax_0_1_map(records[b"GNU.sparse.map"])
        elif pairs:
            size = _decimal_record(records, b"GNU.sparse.size", stored)
            numbers = pairs
        else:
            return stored, None
        end = 0
        for offset, length in numbers:
            if offset < end or offset + length > size:
                raise unreadable("a map of holes contradicts itself")
            end = offset + length
        if sum(length for _, length in numbers) != self._left:
            raise unreadable("a map of holes doesn't fit what is stored")
        return size, tuple(numbers)

    def _gnu_map(self, header: bytes) -> list[tuple[int, int]]:
        """Return the map of GNU's old format, which continues in blocks between header and content."""
        numbers = _gnu_pairs(header[386:482])
        more = header[482]
        while more:
            block = self._read_block()
            numbers += _gnu_pairs(block[:504])
            more = block[504]
            if len(numbers) * 24 > _METADATA_LIMIT:
                raise unreadable("a map of holes is too long")
        return numbers

    def _pax_1_0_map(self) -> list[tuple[int, int]]:
        """Return the map of pax 1.0: lines of decimal numbers in the first blocks of the content, padded with zeros."""
        blocks: list[bytes] = []
        lines, needed = 0, 1
        while lines < needed:
            if self._left < BLOCK or len(blocks) * BLOCK > _METADATA_LIMIT:
                raise unreadable("a map of holes is too long")
            blocks.append(self._read_block())
            self._left -= BLOCK
            lines += blocks[-1].count(b"\n")
            if needed == 1 and lines:
                needed = 1 + 2 * _parse_decimal(b"".join(blocks).partition(b"\n")[0])
        numbers = [_parse_decimal(line) for line in b"".join(blocks).split(b"\n")[1:needed]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _read_block(self) -> bytes:
        """Return the next block of a sparse map."""
        if len(block := self._input.read(BLOCK)) < BLOCK:
            raise unreadable("it ends in the middle of a header")
        return block

    def _begin_content(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _read_metadata(self, size: int) -> bytes:
        """Return the content of a pax header or GNU long name."""
        if size > _METADATA_LIMIT:
            raise unreadable(f"a header has {size} bytes, {_METADATA_LIMIT} is the most")
        self._begin_content(size)
        return b"".join(self.content())

    def _skip_content(self, size: int) -> None:
        """Skip what is left of the last entry, or `size` bytes of the current one."""
        if size:
            self._begin_content(size)
        self._input.skip(self._left)
        self._left = 0
        if self._padding:
            self._input.read(self._padding)  # fewer at the end: the last padding may be missing
            self._padding = 0


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _parse_number(field: bytes, what: str) -> int:
    """Parse a number of a header: octal, or base-256 where the first bit is set (GNU). Only times may be negative."""
    if (digits := field[:-1]).isdigit() and field[-1] in _ENDS:  # as most tools write it
        try:
            return int(digits, 8)
        except ValueError:
            raise unreadable(f"{printable(digits)!r} in a header is not {what}") from None
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if value < 0 and what != "a time":
            raise unreadable(f"{value} in a header is not {what}")
        return value
    # As Go's archive/tar, with which most images are built: NULs may also come first.
    digits = field.strip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    if not digits:
        return 0
    if not _OCTAL(digits):
        raise unreadable(f"{printable(digits)!r} in a header is not {what}")
    return int(digits, 8)


_cached_number = lru_cache(4096)(_parse_number)
"""For fields that most entries share."""


def has_right_checksum(header: bytes) -> bool:
    """Return whether the checksum in a header block is its own. Raises MalformedImage where there is no number."""
    end = 155 if header[154:156] == b"\0 " else 156
    stored = _parse_number(header[148:end], "a checksum")
    # The lower half of Adler-32 is the sum of the bytes modulo 65521, which C counts much faster than sum().
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * 32
    return not (stored - total) % 65521 or stored == _signed_checksum(header)


def _signed_checksum(header: bytes) -> int:
    """Return the checksum as some old tars compute it, from signed bytes."""
    return sum(byte - 256 if byte > 127 else byte for byte in header[:148] + b" " * 8 + header[156:])


def _parse_decimal(text: bytes) -> int:
    if not re.fullmatch(rb"\d{1,20}", text):
        raise unreadable(f"{printable(text[:60])!r} in a header is not a number")
    return int(text)


def _device(header: bytes) -> tuple[int, int]:
    major, minor = _parse_number(header[329:337], "a device"), _parse_number(header[337:345], "a device")
    if major >= 2**12 or minor >= 2**20:
        raise unreadable(f"{major}:{minor} in a header is not a device")
    return major, minor


def _decimal_record(records: dict[bytes, bytes], key: bytes, default: int) -> int:
    return _parse_decimal(records[key]) if key in records else default


def _owner(record: bytes | None, field: bytes) -> int:
    owner = _cached_number(field, "an owner") if record is None else _parse_decimal(record)
    if owner >= _OWNER_LIMIT:
        raise unreadable(f"{owner} in a header is not an owner")
    return owner


@lru_cache(4096)
def _mtime(record: bytes | None, field: bytes) -> int:
    """Return a time in nanoseconds, limited to what this machine holds: `record` of a pax header, else the field."""
    earliest, latest = TIME_LIMITS
    if record is None:
        return max(earliest, min(latest, _parse_number(field, "a time") * 10**9))
    match = re.fullmatch(rb"(-?)(\d{1,18})(?:\.(\d{0,30}))?", record)
    if not match:
        raise unreadable(f"{printable(record[:60])!r} in a header is not a time")
    value = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return max(earliest, min(latest, -value if match[1] else value))


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((key[len(_XATTR) :], value) for key, value in records.items() if key.startswith(_XATTR))


def _parse_pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Parse a pax header, whose records are `LENGTH KEY=VALUE\\n`.

    Returns the records, and the sparse map of pax 0.0, which repeats its keys.
    """
    records: dict[bytes, bytes] = {}
    numbers: list[int] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise unreadable("a pax header is damaged")
        end = at + _parse_decimal(data[at:space])
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not equals or b"\0" in key or not record.endswith(b"\n"):
            raise unreadable("a pax header is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(_parse_decimal(value))
        records[key] = value
        at = end
    if len(numbers) % 2:
        raise unreadable("a pax header is damaged")
    return records, list(zip(numbers[::2], numbers[1::2], strict=True))


def _pax_0_1_map(text: bytes) -> list[tuple[int, int]]:
    numbers = [_parse_decimal(word) for word in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise unreadable("a map of holes is damaged")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _gnu_pairs(data: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(data), 24):
        if not data[at]:
            break
        pairs.append((_parse_number(data[at : at + 12], "a place"), _parse_number(data[at + 12 : at + 24], "a place")))
    return pairs
