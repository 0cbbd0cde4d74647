"""Sizes as people write and read them."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


_UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def size(value: Any) -> int:
    """A number of bytes: `"500 MB"`, `"2GiB"`, or a plain number. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = (
        re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    )
    if not match or match[2].upper() not in _UNITS:
        raise ValueError("not a size such as 500 MB or 4 GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size_text(count: int) -> str:
    """A number of bytes as people read it: `28.9 MB`."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(number, 1) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
