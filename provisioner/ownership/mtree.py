"""The format of ownership.mtree: mtree(5), as bsdtar, go-mtree and NetBSD's mtree read it.

Each file has a line `NAME KEYWORD=VALUE…` below the line of its directory, and a line `..` ends a directory. There are
no paths, so that the record stays small however deep the tree is. Extended attributes are comments above the line of
their file, `# xattr.NAME=BASE64` with the name of go-mtree's keyword, because bsdtar refuses unknown keywords. So is
what holds for the whole record, `# written=TIME owners=image`, in its second line.
"""

from __future__ import annotations

import base64
import re
from binascii import hexlify, unhexlify
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from provisioner.errors import PROVISION_ELSEWHERE, MachineError
from provisioner.filesystem.kind import FILE_TYPES, Kind

_SIGNATURE = b"#mtree\n"
DIRECTORY_END = b"..\n"
_XATTR_MAX = 65536
"""The longest value of an attribute that Linux takes, in bytes (xattr(7)). Longer ones are left out."""

_SPECIAL = re.compile(rb"[^!-~]|[#*=?\[\\]")
_PLAIN = bytes(byte for byte in range(256) if not _SPECIAL.match(bytes([byte])))
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_WORDS = {kind: kind.value.encode() for kind in FILE_TYPES}
_KINDS = {word: kind for kind, word in _WORDS.items()}
_XATTR = b"# xattr."
_HEADER = re.compile(rb"# written=(-?\d{1,12})\.(\d{9}) owners=(image|user)\n")
_LINE = re.compile(
    rb"(\S+)( type=\S+ mode=\S+ uid=\S+ gid=\S+) time=(-?\d{1,12})\.(\d{9})"
    rb"(?: size=(\d{1,19})(?: sha256digest=([0-9a-f]{64}))?)?"
    rb"(?: link=(\S*))?(?: device=native,(\d{1,10}),(\d{1,10}) optional)?(?: nlink=(\d{1,10}))?\n"
)
_SIZE = re.compile(rb" size=(\d{1,19})(?: sha256digest=[0-9a-f]{64})?(?: nlink=(\d{1,10}))?\n")
_WORDS_OF_ALL = re.compile(rb" type=(%s) mode=([0-7]{1,6}) uid=(\d{1,10}) gid=(\d{1,10})" % b"|".join(_KINDS))


class Header(NamedTuple):
    """What the second line of a record says. Records of older versions have no such line."""

    written: int | None = None
    """When all files were written, by the clock of their file system, in nanoseconds since 1970.

    A file whose ctime (inode(7)) is earlier is as it was then: only the kernel sets that.
    """
    has_owners: bool = False
    """Whether the files themselves have the owners of the image, so that others are a change."""


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
    mtime: int = 0
    """In nanoseconds since 1970."""
    size: int = 0
    """The bytes of a regular file."""
    links: int = 1
    """The number of its names: hard links have more than one."""
    target: bytes = b""
    """Where a symlink leads."""
    digest: bytes = b""
    """The SHA-256 digest of a regular file; empty for large files, and in records of older versions."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Names and values of the extended attributes."""

    @property
    def is_directory(self) -> bool:
        """Return whether the content of this directory follows."""
        return self.kind is Kind.DIRECTORY


def format_header(header: Header) -> bytes:
    """Return the first lines of a record."""
    if header.written is None:
        return _SIGNATURE
    owners = b"image" if header.has_owners else b"user"
    return _SIGNATURE + b"# written=%d.%09d owners=%s\n" % (*divmod(header.written, 10**9), owners)


def parse_header(line: bytes) -> Header:
    """Return what the second line of a record says, which is an entry in older versions."""
    if match := _HEADER.fullmatch(line):
        return Header(int(match[1]) * 10**9 + int(match[2]), match[3] == b"image")
    return Header()


def encode_name(name: bytes) -> bytes:
    """Return `name` as vis(3) encodes it with VIS_OCTAL, VIS_WHITE and VIS_GLOB, and `=` encoded too."""
    if not name.translate(None, _PLAIN):
        return name
    return _SPECIAL.sub(lambda special: b"\\%03o" % special[0][0], name)


def decode_name(text: bytes) -> bytes:
    """Return the name that `encode_name` has encoded as `text`."""
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), text)


def format_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the comments that hold a file's extended attributes."""
    return b"".join(
        _XATTR + b"%s=%s\n" % (encode_name(name), base64.b64encode(value))
        for name, value in xattrs
        if len(value) <= _XATTR_MAX
    )


def count_files(record: BinaryIO) -> tuple[int, int]:
    """Return how many files a record has, without directories, and the bytes of their content, links counted once."""
    files, size = 0, 0.0
    while lines := b"".join(record.readlines(1 << 20)):
        files += lines.count(b" type=") - lines.count(b" type=dir ")
        for content, links in _SIZE.findall(lines):
            size += int(content) / int(links or 1)
    return files, int(size)


def format_entry(entry: MtreeEntry) -> bytes:
    """Return the line of a file, without its extended attributes.

    Devices are marked as optional, so that bsdtar accepts the empty files in their place.
    """
    kind = entry.kind
    words = encode_name(entry.name) + format_words(kind, entry.mode, entry.uid, entry.gid, entry.mtime)
    if kind is Kind.FILE:
        words += b" size=%d" % entry.size + format_digest(entry.digest)
    elif kind is Kind.SYMLINK:
        words += b" link=" + encode_name(entry.target)
    elif kind is Kind.CHARACTER or kind is Kind.BLOCK:
        words += b" device=native,%d,%d optional" % entry.device
    if entry.links > 1 and kind is not Kind.DIRECTORY:
        words += b" nlink=%d" % entry.links
    return words + b"\n"


def format_digest(digest: bytes) -> bytes:
    """Return the keyword of a regular file's SHA-256 digest, with a space in front of it; nothing without a digest."""
    return b" sha256digest=" + hexlify(digest) if digest else b""


@lru_cache(1024)
def format_words(kind: Kind, mode: int, uid: int, gid: int, mtime: int) -> bytes:
    """Return the keywords of any file, each with a space in front of it. Many files of an image have the same."""
    return b" type=%s mode=%04o uid=%d gid=%d time=%d.%09d" % (_WORDS[kind], mode, uid, gid, *divmod(mtime, 10**9))


def parse_entries(lines: Iterable[bytes]) -> Iterator[MtreeEntry | None]:
    """Yield the entries of a record that this module has written, and None for the end of each directory.

    Records of older versions have no digests. Raises MachineError where a line can't be read, or the end is missing.
    """
    depth = 0
    xattrs: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line.startswith(b"#"):
            if line.startswith(_XATTR):
                xattrs.append(_parse_xattr(line))
            continue
        entry = None if line == DIRECTORY_END else _parse(line)
        if entry is not None and xattrs:
            entry, xattrs = entry._replace(xattrs=tuple(xattrs)), []
        if entry is not None and (entry.name == b".") != (not depth):
            raise damaged()
        yield entry
        depth += -1 if entry is None else entry.kind is Kind.DIRECTORY
        if not depth:
            return
    raise damaged()


def top_names(lines: Iterable[bytes]) -> list[bytes] | None:
    """Return the names in the root of the tree that a record is of; None where the record isn't whole.

    This looks at where directories begin and end, and not at all else that a line says.
    """
    depth, names = 0, list[bytes]()
    for line in lines:
        if line.startswith(b"#"):
            continue
        if line == DIRECTORY_END:
            depth -= 1
            if depth <= 0:
                return names if not depth else None
            continue
        if depth == 1:
            names.append(decode_name(line.partition(b" ")[0]))
        depth += b" type=dir " in line
    return None


def _parse(line: bytes) -> MtreeEntry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise damaged()
    name, words, seconds, nanoseconds, size, digest, target, major, minor, links = match.groups()
    kind, mode, uid, gid = _parse_words(words)
    if b"\\" in name:
        name = decode_name(name)
    if b"/" in name or b"\0" in name or name == b"..":
        raise damaged()
    return MtreeEntry(
        name,
        kind,
        mode,
        uid,
        gid,
        (int(major), int(minor)) if major else (0, 0),
        int(seconds) * 1_000_000_000 + int(nanoseconds),
        int(size) if size else 0,
        int(links) if links else 1,
        decode_name(target) if target else b"",
        unhexlify(digest) if digest else b"",
    )


@lru_cache(1024)
def _parse_words(words: bytes) -> tuple[Kind, int, int, int]:
    """Return kind, mode, uid and gid of the keywords that `format_words` returns, but for the time."""
    match = _WORDS_OF_ALL.fullmatch(words)
    if match is None:
        raise damaged()
    kind, mode, uid, gid = match.groups()
    return _KINDS[kind], int(mode, 8), int(uid), int(gid)


def _parse_xattr(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.removeprefix(_XATTR).rstrip(b"\n").partition(b"=")
    try:
        return decode_name(name), base64.b64decode(value, validate=True)
    except ValueError as error:
        raise damaged() from error


def damaged() -> MachineError:
    """Return the error for a record that can't be read."""
    return MachineError("the ownership record is damaged", PROVISION_ELSEWHERE)
