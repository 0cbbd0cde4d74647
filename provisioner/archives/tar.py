"""Reads tar archives from a stream: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU, with sparse files (tar(5)).

It doesn't use `tarfile` because every byte passes through here: tarfile's stream mode copies the content three times
and keeps every entry in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from provisioner.archives.fields import (
    BLOCK,
    METADATA_LIMIT,
    has_right_checksum,
    parse_cached_number,
    parse_device,
    parse_mtime,
    parse_number,
    parse_owner,
    parse_owners,
    text_of,
)
from provisioner.archives.pax import XATTR, number_in, parse_pax
from provisioner.archives.sparse import read_sparse_map, too_long
from provisioner.archives.stream import Reader, StreamReader, unreadable
from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind
from provisioner.terminal.escaping import printable


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
_LONG = {b"L": b"path", b"K": b"linkpath"}
"""GNU's long names: the pax record that each stands for."""
_GLOBAL_KEYS = (b"mtime", b"uid", b"gid")
"""The pax records that count in a global header. Others describe one file, or would slow down each entry."""
_MAY_BE_EMPTY = (XATTR, b"GNU.sparse.")


class Taker(Protocol):
    """Writes plain files of an archive in place of its reader: those with one header and the content behind it."""

    def takes_file(self, path: bytes, size: int) -> bool:
        """Return whether to hand over a file whose content has `size` bytes."""

    def hand_over(self, *parts: bytes) -> None:
        """Take the file: `parts` are its header and content, with padding, as they stand in the archive."""

    def wait(self) -> None:
        """Wait, behind the last entry, until all files that were handed over are written."""


class Archive:
    """An archive in a stream of chunks. Iterate over it for the entries; `content()` reads the file of the last one."""

    def __init__(self, chunks: Iterable[bytes], reader: Reader | None = None) -> None:
        self._input = reader or StreamReader(chunks)
        self.taker: Taker | None = None
        """Writes some of the files, which are not yielded as entries then."""
        self.left = 0
        """How many bytes of the last entry's content have not been read."""
        self.is_ended = False
        """Whether an empty block has ended the archive, and not the end of the stream alone."""
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order, and read the stream to its end. Raises MalformedImage.

        An empty stream has no entries: some tools write such layers. Behind the end of the archive only zeros are
        allowed: some readers would parse other data as more entries, others not.
        """
        while (entry := self._next_entry()) is not None:
            yield entry
        if self.taker is not None:
            self.taker.wait()
        if self._input.drain():
            raise unreadable("there is more behind its end")

    def content(self) -> Iterator[memoryview]:
        """Yield the content of the last entry, in pieces that are valid until the next one is requested."""
        while self.left:
            yield self.read_piece()

    def read_piece(self) -> memoryview:
        """Return the next piece of the last entry's content, of which there is some left."""
        piece = self._input.read_piece(self.left)
        self.left -= len(piece)
        return piece

    def _next_entry(self) -> Entry | None:
        """Return the next entry, parsed from all of its headers; None at the end."""
        records: dict[bytes, bytes] = {}  # with GNU's long names, which pax records override
        pairs: list[tuple[int, int]] = []  # the sparse map of pax 0.0, which repeats its keys
        while (header := self._next_header()) is not None:
            flag = header[156:157]
            size = parse_number(header[124:136], "a size")
            if flag == b"0" and not records and not self._global:
                if (entry := self._plain_file(header, size)) is not None:
                    return entry
            elif flag in (b"x", b"X"):
                found, pairs = parse_pax(self._read_metadata(size))
                records.update(found)
            elif flag == b"g":
                found, _ = parse_pax(self._read_metadata(size))
                self._global.update((key, found[key]) for key in _GLOBAL_KEYS if key in found)
            elif flag in _LONG:
                records.setdefault(_LONG[flag], text_of(self._read_metadata(size)))
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
        if self.left:
            self._skip_content(0)
        elif self._padding:
            self._skip_padding()
        header = self._input.read(BLOCK)
        if not header or (not header[0] and not header.strip(b"\0")):
            self.is_ended = bool(header)
            return None
        if len(header) < BLOCK:
            raise unreadable("it ends in the middle of a header")
        if not has_right_checksum(header):
            raise unreadable("the checksum of a header is wrong")
        return header

    def _plain_file(self, header: bytes, size: int) -> Entry | None:
        """Return the entry of a regular file all of which is in its header, as of most files: it has to be fast.

        Returns None where it was handed over.
        """
        path = header[:100].split(b"\0", 1)[0]
        if header[345] and header[257:263] == b"ustar\0":
            path = text_of(header[345:500]) + b"/" + path
        if path.endswith(b"/"):
            return self._entry(header, size, {}, [])
        if self.taker is not None and self.taker.takes_file(path, size):
            content = self._input.read(size + -size % BLOCK)  # the last padding may be missing
            if len(content) < size:
                raise unreadable("it ends in the middle of a file")
            self.taker.hand_over(header, content)
            return None
        self.left, self._padding = size, -size % BLOCK
        mode, uid, gid = parse_owners(header[100:124])
        mtime = parse_mtime(None, header[136:148])
        # Much faster than the class.
        return tuple.__new__(Entry, (path, Kind.FILE, mode, uid, gid, size, mtime, b"", (0, 0), (), None))

    def _entry(self, header: bytes, size: int, records: dict[bytes, bytes], pairs: list[tuple[int, int]]) -> Entry:
        """Return the entry of a header and of the pax records that override its fields."""
        path = records.get(b"path")
        if path is None:
            path = text_of(header[:100])
            if header[257:263] == b"ustar\0" and header[345]:
                path = text_of(header[345:500]) + b"/" + path
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise MalformedImage(f"{printable(path[:300])}: entries of type {flag!r} are unknown")
        if kind is Kind.FILE:  # the header of a sparse file may have a truncated name
            path = records.get(b"GNU.sparse.name", path)
        stored = number_in(records, b"size", size) if kind is Kind.FILE or flag == b"D" else 0
        self._begin_content(stored)
        if path.endswith(b"/"):
            if kind is Kind.FILE and stored:  # some readers skip the content, others parse it as headers
                raise MalformedImage(f"{printable(path[:300])}: it is a directory with content")
            kind = Kind.DIRECTORY if kind is Kind.FILE else kind  # as in v7 archives
            path = path.rstrip(b"/")
        size = stored if kind is Kind.FILE else 0
        extents: tuple[tuple[int, int], ...] | None = None
        if kind is Kind.FILE and (records or flag == b"S"):
            sparse = read_sparse_map(header, stored, records, pairs, self._read_block, self._read_content_block)
            if sparse is not None:
                size, extents = sparse
                if sum(length for _, length in extents) != self.left:
                    raise unreadable("a map of holes doesn't fit what is stored")
        return Entry(
            path,
            kind,
            parse_cached_number(header[100:108], "a mode") & 0o7777,
            parse_owner(records.get(b"uid"), header[108:116]),
            parse_owner(records.get(b"gid"), header[116:124]),
            size,
            parse_mtime(records.get(b"mtime"), header[136:148]),
            records[b"linkpath"] if b"linkpath" in records else text_of(header[157:257]),
            parse_device(header) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0),
            _xattrs(records) if records else (),
            extents,
        )

    def _read_block(self) -> bytes:
        """Return the next block of a sparse map that is behind a header."""
        if len(block := self._input.read(BLOCK)) < BLOCK:
            raise unreadable("it ends in the middle of a header")
        return block

    def _read_content_block(self) -> bytes:
        """Return the next block of a sparse map that is at the beginning of the content."""
        if self.left < BLOCK:
            raise too_long()
        self.left -= BLOCK
        return self._read_block()

    def _begin_content(self, size: int) -> None:
        self.left, self._padding = size, -size % BLOCK

    def _read_metadata(self, size: int) -> bytes:
        """Return the content of a pax header or GNU long name."""
        if size > METADATA_LIMIT:
            raise unreadable(f"a header has {size} bytes, {METADATA_LIMIT} is the most")
        self._begin_content(size)
        return b"".join(self.content())

    def _skip_content(self, size: int) -> None:
        """Skip what is left of the last entry, or `size` bytes of the current one."""
        if size:
            self._begin_content(size)
        self._input.skip(self.left)
        self.left = 0
        self._skip_padding()

    def _skip_padding(self) -> None:
        self._input.read(self._padding)  # fewer at the end: the last padding may be missing
        self._padding = 0


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((key[len(XATTR) :], value) for key, value in records.items() if key.startswith(XATTR))
