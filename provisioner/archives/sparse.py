"""The maps of sparse files in tar archives, which say where the stored data belongs, in each of GNU's four formats.

They are described in the manual of GNU tar, "Storing Sparse Files": the old format, and those of pax 0.0, 0.1 and 1.0.
All functions raise MalformedImage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from provisioner.archives.fields import BLOCK, METADATA_LIMIT, parse_decimal, parse_number
from provisioner.archives.pax import number_in
from provisioner.archives.stream import unreadable
from provisioner.errors import MalformedImage

_PAIR = 24
"""The bytes of an offset and a length in the old format."""


class SparseMap(NamedTuple):
    """Where the data of a sparse file is."""

    size: int
    """The bytes of the whole file, with its holes."""
    extents: tuple[tuple[int, int], ...]
    """Offset and length of each piece of data, in order."""


def read_sparse_map(
    header: bytes,
    stored: int,
    records: Mapping[bytes, bytes],
    pairs: Sequence[tuple[int, int]],
    read_block: Callable[[], bytes],
    read_content_block: Callable[[], bytes],
) -> SparseMap | None:
    """Return the map of a regular file by its header and its pax `records`; None for one that isn't sparse.

    `stored` is the size of its content in the archive, and `pairs` are the records of pax 0.0, whose keys occur several
    times. `read_block` returns the next block behind the header, and `read_content_block` that of the content.
    """
    if header[156:157] == b"S":
        size = parse_number(header[483:495], "a size")
        extents = _read_old_map(header, read_block)
    elif records.get(b"GNU.sparse.major") == b"1":
        size = number_in(records, b"GNU.sparse.realsize", stored)
        extents = _read_map_1_0(read_content_block)
    elif b"GNU.sparse.map" in records:
        size = number_in(records, b"GNU.sparse.size", stored)
        extents = _parse_map_0_1(records[b"GNU.sparse.map"])
    elif pairs:
        size = number_in(records, b"GNU.sparse.size", stored)
        extents = list(pairs)
    else:
        return None
    end = 0
    for offset, length in extents:
        if offset < end or offset + length > size:
            raise unreadable("a map of holes contradicts itself")
        end = offset + length
    return SparseMap(size, tuple(extents))


def _read_old_map(header: bytes, read_block: Callable[[], bytes]) -> list[tuple[int, int]]:
    """Return the map of the old format, which goes on in blocks between header and content."""
    extents = _parse_pairs(header[386:482])
    more = header[482]
    while more:
        block = read_block()
        extents += _parse_pairs(block[:504])
        more = block[504]
        if len(extents) * _PAIR > METADATA_LIMIT:
            raise too_long()
    return extents


def _read_map_1_0(read_block: Callable[[], bytes]) -> list[tuple[int, int]]:
    """Return the map of pax 1.0: lines of decimal numbers in the first blocks of the content, padded with zeros."""
    blocks: list[bytes] = []
    lines, needed = 0, 1
    while lines < needed:
        if len(blocks) * BLOCK > METADATA_LIMIT:
            raise too_long()
        blocks.append(read_block())
        lines += blocks[-1].count(b"\n")
        if needed == 1 and lines:
            needed = 1 + 2 * parse_decimal(b"".join(blocks).partition(b"\n")[0])
    numbers = [parse_decimal(line) for line in b"".join(blocks).split(b"\n")[1:needed]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _parse_map_0_1(text: bytes) -> list[tuple[int, int]]:
    numbers = [parse_decimal(word) for word in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise unreadable("a map of holes is damaged")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _parse_pairs(data: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(data), _PAIR):
        if not data[at]:
            break
        pairs.append((parse_number(data[at : at + 12], "a place"), parse_number(data[at + 12 : at + 24], "a place")))
    return pairs


def too_long() -> MalformedImage:
    """Return the error for a map that has more bytes than METADATA_LIMIT, or than the content that it is in."""
    return unreadable("a map of holes is too long")
