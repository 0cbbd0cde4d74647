"""Tar archives made in memory: well-formed ones by tarfile, malformed ones from bytes."""

from __future__ import annotations

import io
import tarfile
from typing import Any

END = bytes(1024)
"""The two empty blocks that end an archive."""

Member = tuple[str, bytes | str | None] | tuple[str, bytes, int] | tarfile.TarInfo
"""A member of an archive: `(name, content)` or `(name, content, mode)` for a file, `(name, None)` for a directory,
`(name, target)` for a symlink, or a TarInfo for anything else that has no content."""


def tar(*members: Member, dialect: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of these members, in this order, in a dialect of tarfile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for member in members:
            header, content = (member, b"") if isinstance(member, tarfile.TarInfo) else _header(*member)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def _header(name: str, content: bytes | str | None, mode: int | None = None) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.mode = mode or (0o644 if isinstance(content, bytes) else 0o755)
    if content is None:
        header.type = tarfile.DIRTYPE
    elif isinstance(content, str):
        header.type, header.linkname = tarfile.SYMTYPE, content
    else:
        header.size = len(content)
        return header, content
    return header, b""


def special(name: str, kind: bytes, target: str = "", **fields: Any) -> tarfile.TarInfo:
    """Return a member without content: its type, the target of a link, and any other fields of TarInfo."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    for field, value in fields.items():
        setattr(header, field, value)
    return header


def hard(name: str, target: str) -> tarfile.TarInfo:
    """Return a hard link."""
    return special(name, tarfile.LNKTYPE, target)


def raw(name: bytes, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: bytes) -> bytes:
    """Return a header with arbitrary bytes in its fields and the right checksum, followed by its content.

    Join such members and END to make an archive.
    """
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "target": 157, "major": 329}
    places |= {"sparse": 386, "isextended": 482, "realsize": 483}
    header = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(content))
    header += b"00000000000\0" + b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
    header += bytes(512 - len(header))
    for field, value in fields.items():
        header[places[field] : places[field] + len(value)] = value
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def pax(kind: bytes = tarfile.XHDTYPE, **fields: bytes) -> bytes:
    """Return a pax extended header; the member that it describes has to follow. `_` in a field's name becomes a dot."""
    records = b""
    for field, value in fields.items():
        record = b" %s=%s\n" % (field.replace("_", ".").encode(), value)
        length = len(record)
        while length != len(b"%d" % length + record):
            length = len(b"%d" % length + record)
        records += b"%d" % length + record
    return raw(b"pax", kind, records)
