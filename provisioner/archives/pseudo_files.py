"""Turns what `unsquashfs -pf` writes into a tar archive (mksquashfs(1), "Pseudo file definitions").

It is a line for each file, with its metadata, and then the contents of all regular files in that order. So a squashfs
goes the same way as any archive, and unsquashfs, which reads what strangers have made, writes no files.

The target of a symlink may have newlines, which look like the end of its line. The list of `unsquashfs -lln` has the
files in the same order, with the size of each target. So both are read side by side: the size says where a target ends.
An image for which they contradict each other is refused.
"""

from __future__ import annotations

import base64
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from provisioner.archives.fields import BLOCK
from provisioner.archives.pax import XATTR
from provisioner.archives.stream import StreamReader, unreadable
from provisioner.errors import MachineError, MalformedImage

_MARK = b"\n#\n# START OF DATA - DO NOT MODIFY\n#\n"
_LINES_LIMIT = 256 << 20
"""The most bytes of lines, which are in memory."""
_PIECE = 1 << 18
_HEAD = re.compile(rb"((?:\\.|[^\\ ])+) ([A-Za-z])", re.DOTALL)
"""Name and type. In names there is a backslash before spaces, quotes and backslashes, and since 4.6 before newlines."""
_LINK = re.compile(rb" ((?:\\.|[^\\\n])+)", re.DOTALL)
"""The target of a hard link, which is a name, too."""
_FIELDS = re.compile(rb"((?: -?\d+){4}) ")
"""What is between the type of a symlink and its target: time, mode and owners."""
_LISTED = re.compile(rb"([-a-z?])\S{9} \S+ +(\d+)(?:, *\d+)? -?\d+-\d\d-\d\d \d\d:\d\d squashfs-root")
"""What unsquashfs -lln writes in front of a path: the kind of the file, as ls(1) shows it, and its size."""
_ARROW = b" -> "
_ARCHIVE_IT = "unpack it with unsquashfs, and archive the directory with tar"
_KINDS = {
    b"D": tarfile.DIRTYPE,
    b"S": tarfile.SYMTYPE,
    b"C": tarfile.CHRTYPE,
    b"B": tarfile.BLKTYPE,
    b"R": tarfile.REGTYPE,
}


class _File(NamedTuple):
    """What unsquashfs says of one file."""

    path: bytes
    """Without slashes around it; empty for the root."""
    kind: bytes
    """The letter of its type."""
    fields: list[bytes]
    """Numbers; what they are depends on the kind."""
    target: bytes
    """Of a symlink or hard link."""
    xattrs: list[bytes]
    """Each as NAME=VALUE."""


def tar_of(chunks: Iterable[bytes], listing: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the tar archive of the pseudo files in `chunks`. Raises MalformedImage and MachineError.

    `listing` is what `unsquashfs -lln` writes of the same image; it is read first.
    """
    listed = _Listing(listing)
    lines, reader = _split(chunks)
    at = 0
    for file in _files(lines, listed):
        header = tarfile.TarInfo(_text(file.path or b"."))
        offset = _describe(header, file)
        header.pax_headers = dict(map(_xattr, file.xattrs))
        yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if header.size:
            if offset != at:
                raise unreadable("the contents of files are not in their order")
            yield from _content(reader, header.size)
            at += header.size
    yield bytes(2 * BLOCK)


def files_of(chunks: Iterable[bytes], listing: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield path and size of each of the pseudo files in `chunks`, without their contents.

    `listing` is what `unsquashfs -lln` writes of the same image; it is read first. Raises MalformedImage, MachineError.
    """
    listed = _Listing(listing)
    lines, _ = _split(chunks)
    for file in _files(lines, listed):
        header = tarfile.TarInfo()
        _describe(header, file)
        yield file.path, header.size


class _Listing:
    """The list of `unsquashfs -lln`, which is read line by line. Raises MalformedImage and MachineError."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        text = bytearray()
        for chunk in chunks:
            text += chunk
            _check_size(len(text))
        self._text = bytes(text)
        self._at = 0

    def take(self, path: bytes) -> int | None:
        """Go on behind the line of the file `path`, and return the size of a symlink's target; None for others."""
        match = _LISTED.match(self._text, self._at)
        name = b"/" + path if path else b""
        if match is None or not self._text.startswith(name, match.end()):
            raise _contradiction()
        end, size = match.end() + len(name), None
        if match[1] == b"l":
            size = int(match[2])
            end += len(_ARROW) + size
        if self._text[end : end + 1] != b"\n":
            raise _contradiction()
        self._at = end + 1
        return size

    def finish(self) -> None:
        """Raise MalformedImage where there are more lines."""
        if self._at < len(self._text):
            raise _contradiction()


def _contradiction() -> MalformedImage:
    return MalformedImage("what unsquashfs lists and what it describes are not the same files", _ARCHIVE_IT)


def _check_size(size: int) -> None:
    if size > _LINES_LIMIT:
        raise MachineError("the squashfs has too many files", _ARCHIVE_IT)


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
        _check_size(len(head))
    return bytes(head), StreamReader(())


def _joined(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _files(lines: bytes, listing: _Listing) -> Iterator[_File]:
    """Yield the files that `lines` describe, in the same order as `listing`. Raises MalformedImage."""
    at = 0
    file: _File | None = None
    while at < len(lines):
        if (head := _HEAD.match(lines, at)) is None:
            raise _unknown()
        path, kind = _plain(head[1]).strip(b"/"), head[2]
        if kind in b"xX":
            if file is None or path != file.path:
                raise _contradiction()
            at = _end_of_line(lines, head.end())
            file.xattrs.append(lines[head.end() + 1 : at])
        else:
            if file is not None:
                yield file
            file, at = _file(lines, head.end(), path, kind, listing.take(path))
        if lines[at : at + 1] not in (b"\n", b""):
            raise _unknown()
        at += 1
    if file is not None:
        yield file
    listing.finish()


def _file(lines: bytes, at: int, path: bytes, kind: bytes, target_size: int | None) -> tuple[_File, int]:
    """Return the file whose description goes on at `at`, behind its type, and where that ends."""
    if kind == b"L" and (link := _LINK.match(lines, at)):
        return _File(path, kind, [], _plain(link[1]).strip(b"/"), []), link.end()
    if kind == b"S" and (fields := _FIELDS.match(lines, at)):
        if target_size is None:
            raise _contradiction()
        end = fields.end() + target_size
        return _File(path, kind, fields[1].split(), lines[fields.end() : end], []), end
    end = _end_of_line(lines, at)
    return _File(path, kind, lines[at:end].split(), b"", []), end


def _end_of_line(lines: bytes, at: int) -> int:
    end = lines.find(b"\n", at)
    return end if end >= 0 else len(lines)


def _unknown() -> MalformedImage:
    return MalformedImage("unsquashfs describes a file in a way that isn't known", _ARCHIVE_IT)


def _describe(header: tarfile.TarInfo, file: _File) -> int:
    """Set the fields of a header, and return the offset of the content."""
    header.linkname = _text(file.target)
    if file.kind == b"L":
        header.type = tarfile.LNKTYPE
        return 0
    try:
        header.mtime, header.mode = int(file.fields[0]), int(file.fields[1], 8)
        header.uid, header.gid, *more = map(int, file.fields[2:6] if file.kind != b"I" else file.fields[2:4])
        if file.kind == b"I":  # of a socket, which means nothing outside of its machine, tar has no type
            header.type = tarfile.FIFOTYPE
            return 0
        header.type = _KINDS[file.kind]
        if file.kind in b"BC":
            header.devmajor, header.devminor = more
        elif file.kind == b"R":
            header.size, offset = more
            return offset
    except (ValueError, IndexError, KeyError):
        raise _unknown() from None
    return 0


def _xattr(text: bytes) -> tuple[str, str]:
    """Return the pax record of an extended attribute, which unsquashfs 4.6 and later writes."""
    name, _, value = text.partition(b"=")
    content = _unescaped(value)
    with suppress(ValueError):
        if value.startswith(b"0s"):
            content = base64.b64decode(value[2:], validate=True)
        elif value.startswith(b"0x"):
            content = bytes.fromhex(value[2:].decode())
    return _text(XATTR + name), _text(content)


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
