"""Writes tar archives: ustar (POSIX.1-1988), with pax records (POSIX.1-2001) where that can't hold something.

The same entries give the same bytes. Sparse files are in GNU's format 1.0, extended attributes in star's records, as
GNU tar and bsdtar write and read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from provisioner.archives.fields import BLOCK
from provisioner.archives.pax import XATTR
from provisioner.archives.tar import Entry
from provisioner.filesystem.kind import Kind

END = bytes(2 * BLOCK)
"""The end of an archive."""

_TYPES = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_LARGEST_ID, _LARGEST_SIZE = 0o7777777, 0o77777777777
_NAME, _PREFIX = 100, 155


class ArchiveWriter:
    """Writes entries by the function `write`, which gets bytes in order."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def add(self, entry: Entry, content: Iterable[bytes] = (), *, comment: bytes = b"") -> bool:
        """Write an entry with the content of a regular file: all that is in its extents, if it has some.

        Other programs ignore the comment.

        Content of another size is cut, or filled with zeros, and False is returned then. Raises what `write` raises.
        """
        records = dict(_records(entry)) | ({b"comment": comment} if comment else {})
        stored = entry.size if entry.kind is Kind.FILE else 0
        sparse_map, name = b"", entry.path
        if entry.extents is not None:
            sparse_map = _sparse_map(entry.extents, entry.size)
            records |= {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": entry.path}
            records[b"GNU.sparse.realsize"] = b"%d" % entry.size
            records.pop(b"path", None)
            name = b"GNUSparseFile.0/" + entry.path.rpartition(b"/")[2]
            stored = len(sparse_map) + sum(length for _, length in entry.extents)
        if stored > _LARGEST_SIZE:
            records[b"size"] = b"%d" % stored
        if records:
            self._write_records(records)
        self._write(_header(entry, name, stored))
        self._write(sparse_map)
        is_whole = self._write_content(content, stored - len(sparse_map))
        self._write(bytes(-stored % BLOCK))
        return is_whole

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(END)

    def _write_records(self, records: dict[bytes, bytes]) -> None:
        data = b"".join(_record(key, value) for key, value in records.items())
        header = _fields(b"././@PaxHeader", b"0000644", 0, 0, len(data), 0, b"x", b"", (0, 0))
        self._write(header + data + bytes(-len(data) % BLOCK))

    def _write_content(self, content: Iterable[bytes], size: int) -> bool:
        left, is_cut = size, False
        for piece in content:
            self._write(piece[:left])
            is_cut = is_cut or len(piece) > left
            left -= min(left, len(piece))
        if left:
            for count in _counts(left):
                self._write(bytes(count))
        return not left and not is_cut


def _counts(size: int) -> Iterator[int]:
    """Yield numbers up to a MiB whose sum is `size`."""
    while size:
        count = min(size, 1 << 20)
        yield count
        size -= count


def _records(entry: Entry) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pax records for what the fields of a header can't hold."""
    path = entry.path + b"/" if entry.kind is Kind.DIRECTORY else entry.path
    if _split(path) is None:
        if not _is_utf8(path):
            yield b"hdrcharset", b"BINARY"
        yield b"path", path
    if len(entry.target) > _NAME:
        yield b"linkpath", entry.target
    for key, owner in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if owner > _LARGEST_ID:
            yield key, b"%d" % owner
    seconds, nanoseconds = divmod(abs(entry.mtime), 10**9)
    if nanoseconds or entry.mtime < 0 or seconds > _LARGEST_SIZE:
        sign, fraction = b"-" if entry.mtime < 0 else b"", b".%09d" % nanoseconds if nanoseconds else b""
        yield b"mtime", b"%s%d%s" % (sign, seconds, fraction.rstrip(b"0"))
    for name, value in entry.xattrs:
        if b"=" not in name:  # which no record can have in its name
            yield XATTR + name, value


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record, which begins with its own length."""
    text = b" %s=%s\n" % (key, value)
    length = len(text)
    while length != len(text) + len(b"%d" % length):
        length = len(text) + len(b"%d" % length)
    return b"%d" % length + text


def _sparse_map(extents: Iterable[tuple[int, int]], size: int) -> bytes:
    """Return the map of GNU's format 1.0: numbers in lines, filled up to a block. Its end says how long the file is."""
    pairs = [*extents, (size, 0)]
    lines = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
    return lines + bytes(-len(lines) % BLOCK)


def _header(entry: Entry, path: bytes, stored: int) -> bytes:
    """Return the header block of an entry; what doesn't fit into its fields is 0, or cut."""
    path = path + b"/" if entry.kind is Kind.DIRECTORY else path
    seconds = entry.mtime // 10**9
    return _fields(
        path,
        b"%07o" % entry.mode,
        entry.uid if entry.uid <= _LARGEST_ID else 0,
        entry.gid if entry.gid <= _LARGEST_ID else 0,
        stored if stored <= _LARGEST_SIZE else 0,
        seconds if 0 <= seconds <= _LARGEST_SIZE else 0,
        _TYPES[entry.kind],
        entry.target[:_NAME],
        entry.device,
    )


def _fields(
    path: bytes,
    mode: bytes,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    flag: bytes,
    target: bytes,
    device: tuple[int, int],
) -> bytes:
    prefix, name = _split(path) or (b"", path[:_NAME])
    start = name.ljust(_NAME, b"\0") + mode + b"\0%07o\0%07o\0%011o\0%011o\0" % (uid, gid, size, mtime)
    end = flag + target.ljust(_NAME, b"\0") + b"ustar\0" + b"00" + bytes(64)
    end += b"%07o\0%07o\0" % device + prefix.ljust(_PREFIX, b"\0") + bytes(12)
    total = sum(start) + sum(end) + 8 * ord(" ")
    return start + b"%06o\0 " % total + end


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """Return a path as prefix and name, as a header has them; None where it is too long for that."""
    if len(path) <= _NAME:
        return b"", path
    at = path.rfind(b"/", 0, min(_PREFIX + 1, len(path) - 1))
    if at <= 0 or len(path) - at - 1 > _NAME:
        return None
    return path[:at], path[at + 1 :]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
