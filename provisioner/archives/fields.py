"""The fields of a tar header (tar(5)), and pax records that stand in for them. All functions raise MalformedImage."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

from provisioner.archives.stream import unreadable
from provisioner.filesystem.times import time_limits
from provisioner.terminal.escaping import printable

BLOCK = 512
"""The bytes of a header."""
METADATA_LIMIT = 1 << 20
"""The most bytes that a long name, a pax header or a sparse map may have."""
TIME_LIMITS = time_limits()
"""The earliest and the latest time of an entry, in nanoseconds since 1970. Others become these."""
_OWNER_LIMIT = 2**32 - 1
_ENDS = b" \0"
_OCTAL = re.compile(rb"[0-7]+").fullmatch


def text_of(field: bytes) -> bytes:
    """Return the text of a field, which ends before a NUL."""
    return field.split(b"\0", 1)[0]


def parse_number(field: bytes, what: str) -> int:
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


parse_cached_number = lru_cache(4096)(parse_number)
"""For fields that most entries share."""


def has_right_checksum(header: bytes) -> bool:
    """Return whether the checksum in a header block is its own. Raises MalformedImage where there is no number."""
    # Most tools write it like this. The lower half of Adler-32 is the sum of the bytes modulo 65521, which C counts
    # much faster than sum().
    total = (zlib.adler32(header[156:], zlib.adler32(header[:148])) & 0xFFFF) - 1 + 8 * 32
    if header[148:156] == b"%06o\0 " % total:
        return True
    end = 155 if header[154:156] == b"\0 " else 156
    stored = parse_number(header[148:end], "a checksum")
    return not (stored - total) % 65521 or stored == _signed_checksum(header)


def _signed_checksum(header: bytes) -> int:
    """Return the checksum as some old tars compute it, from signed bytes."""
    return sum(byte - 256 if byte > 127 else byte for byte in header[:148] + b" " * 8 + header[156:])


def parse_decimal(text: bytes) -> int:
    """Parse a number of a pax record."""
    if not re.fullmatch(rb"\d{1,20}", text):
        raise unreadable(f"{printable(text[:60])!r} in a header is not a number")
    return int(text)


def parse_device(header: bytes) -> tuple[int, int]:
    """Return the major and minor number of a device."""
    major, minor = parse_number(header[329:337], "a device"), parse_number(header[337:345], "a device")
    if major >= 2**12 or minor >= 2**20:
        raise unreadable(f"{major}:{minor} in a header is not a device")
    return major, minor


@lru_cache(4096)
def parse_owners(fields: bytes) -> tuple[int, int, int]:
    """Return the mode, owner and group of a header."""
    mode = parse_cached_number(fields[:8], "a mode") & 0o7777
    return mode, parse_owner(None, fields[8:16]), parse_owner(None, fields[16:])


def parse_owner(record: bytes | None, field: bytes) -> int:
    """Return a user or group: `record` of a pax header, else the field."""
    owner = parse_cached_number(field, "an owner") if record is None else parse_decimal(record)
    if owner >= _OWNER_LIMIT:
        raise unreadable(f"{owner} in a header is not an owner")
    return owner


@lru_cache(4096)
def parse_mtime(record: bytes | None, field: bytes) -> int:
    """Return a time in nanoseconds, limited to what this machine holds: `record` of a pax header, else the field."""
    earliest, latest = TIME_LIMITS
    if record is None:
        return max(earliest, min(latest, parse_number(field, "a time") * 10**9))
    match = re.fullmatch(rb"(-?)(\d{1,18})(?:\.(\d{0,30}))?", record)
    if not match:
        raise unreadable(f"{printable(record[:60])!r} in a header is not a time")
    value = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return max(earliest, min(latest, -value if match[1] else value))
