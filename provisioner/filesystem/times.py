"""The times that this machine's files can have."""

from __future__ import annotations

import time

_SECOND = 10**9


def time_limits() -> tuple[int, int]:
    """Return the earliest and the latest time that the time_t of this Python can hold, in nanoseconds since 1970.

    Termux's 32-bit packages have a time_t of 32 bits, which ends in January 2038.
    """
    try:
        time.gmtime(1 << 31)
    except OverflowError:
        return -(1 << 31) * _SECOND, ((1 << 31) - 1) * _SECOND
    return 1 - (1 << 63), (1 << 63) - 1
