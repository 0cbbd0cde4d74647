"""The older format of rpm's database: a hash of Berkeley DB, as in RHEL 8 and Amazon Linux 2 (db_page.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HASH_MAGIC, _HASH_METADATA = 0x061561, 8
_HASH_PAGES, _OVERFLOW_PAGE = (2, 13), 7
_PAGE_HEADER = 26
_ON_PAGE, _OFF_PAGE = 1, 3
"""The types of items."""
_COUNTER = bytes(4)
"""The key of a value that is no header: the highest number of a package."""


def read_berkeley(data: bytes) -> list[bytes]:
    """Return the headers of packages in a hash, in the byte order of whichever machine has written it.

    It comes from a container and may say anything: no more bytes are returned than it has. Raises struct.error,
    LookupError and ValueError for what can't be read.
    """
    order = next((order for order in "<>" if struct.unpack_from(f"{order}I", data, 12) == (_HASH_MAGIC,)), "")
    if not order or data[25] != _HASH_METADATA:
        raise ValueError("no hash of Berkeley DB")
    (size,) = struct.unpack_from(f"{order}I", data, 20)
    if not 512 <= size <= 65536:
        raise ValueError(f"pages of {size} bytes")
    headers, left = list[bytes](), len(data)
    for start in range(size, len(data) - _PAGE_HEADER, size):
        for header in _values(data, order, size, start):
            left -= len(header)
            if left < 0:
                raise ValueError("values that overlap")
            headers.append(header)
    return headers


def _values(data: bytes, order: str, size: int, start: int) -> Iterator[bytes]:
    """Yield the values on the page at `start`, where it is one of the hash. Keys are before their values."""
    count, _, _, kind = struct.unpack_from(f"{order}HHBB", data, start + 20)
    if kind not in _HASH_PAGES:
        return
    offsets = struct.unpack_from(f"{order}{count}H", data, start + _PAGE_HEADER)
    for key, value in zip(offsets[::2], offsets[1::2], strict=True):
        at, end = start + value, start + key  # items are written from the end of the page on
        if data[end + 1 : end + 5] == _COUNTER:
            continue
        if data[at] == _ON_PAGE:
            yield data[at + 1 : end]
        elif data[at] == _OFF_PAGE:
            yield b"".join(_overflow(data, order, size, *struct.unpack_from(f"{order}II", data, at + 4)))


def _overflow(data: bytes, order: str, size: int, page: int, length: int) -> Iterator[bytes]:
    """Yield the pieces of a value that has `length` bytes, and pages of its own from `page` on."""
    if length > len(data):
        raise ValueError(f"a value of {length} bytes")
    while length:
        start = page * size
        page, _, used, _, kind = struct.unpack_from(f"{order}IHHBB", data, start + 16)
        piece = data[start + _PAGE_HEADER : start + _PAGE_HEADER + min(used, length)]
        if kind != _OVERFLOW_PAGE or not piece:
            raise ValueError("a value without an end")
        length -= len(piece)
        yield piece
