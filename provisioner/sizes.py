"""Sizes and numbers as people write and read them."""

from __future__ import annotations

import re

_PREFIXES = " KMGTP"
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*(?:([kKmMgGtTpP])([iI]?))?[bB]?\s*")


def parse_size(value: object) -> int:
    """Return the number of bytes that a number or a text such as `500`, `500 MB`, `1.5T` or `2GiB` stands for.

    K, M, G, T and P are powers of 1000, Ki to Pi powers of 1024, in upper or lower case; a B may follow. Raises
    ValueError.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("not a size such as 500 MB or 4 GB")
    number, prefix, binary = match.groups(default="")
    base = 1024 if binary else 1000
    return int(float(number) * base ** _PREFIXES.index(prefix.upper() or " "))


def size_text(count: int) -> str:
    """Return a number of bytes as people read it: `28.9 MB`."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(number, 1) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what is counted: `1 file`, `1,204 files`.

    `many` is the plural of `one`, if it isn't formed with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
