"""Pax headers (POSIX.1-2001, pax): records that describe the next entry of a tar archive, or all that follow."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.archives.fields import parse_decimal
from provisioner.archives.stream import unreadable

XATTR = b"SCHILY.xattr."
"""The beginning of the key of an extended attribute, as star, GNU tar and bsdtar write it."""


def parse_pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Parse a pax header, whose records are `LENGTH KEY=VALUE\\n`.

    Returns the records, and offset and length of each extent in the sparse map of pax 0.0, whose keys occur several
    times. Raises MalformedImage.
    """
    records: dict[bytes, bytes] = {}
    numbers: list[int] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise unreadable("a pax header is damaged")
        end = at + parse_decimal(data[at:space])
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not equals or b"\0" in key or not record.endswith(b"\n"):
            raise unreadable("a pax header is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(parse_decimal(value))
        records[key] = value
        at = end
    if len(numbers) % 2:
        raise unreadable("a pax header is damaged")
    return records, list(zip(numbers[::2], numbers[1::2], strict=True))


def number_in(records: Mapping[bytes, bytes], key: bytes, default: int) -> int:
    """Return the decimal number in a record; `default` where there is no such record. Raises MalformedImage."""
    return parse_decimal(records[key]) if key in records else default
