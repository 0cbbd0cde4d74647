"""The times that this machine's files can have."""

from __future__ import annotations

import time

_SECOND = 10**9
_LAST = 253402300799
"""The last second of the year 9999."""


def time_limits() -> tuple[int, int]:
    """Return the earliest and the latest time that the time_t of this Python can hold, in nanoseconds since 1970.

    Termux's 32-bit packages have a time_t of 32 bits, which ends in January 2038.
    """
    try:
        time.gmtime(1 << 31)
    except OverflowError:
        return -(1 << 31) * _SECOND, ((1 << 31) - 1) * _SECOND
    return 1 - (1 << 63), (1 << 63) - 1


def utc_time(seconds: float) -> str:
    """Return a time in seconds since the epoch as RFC 3339 writes it; one before 1970 or after 9999 as the nearest."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_within_limits(seconds)))


def local_time(seconds: float) -> str:
    """Return a time in seconds since the epoch for people: `2026-11-26 10:58` in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(_within_limits(seconds)))


def _within_limits(seconds: float) -> float:
    return min(max(seconds, 0), _LAST, time_limits()[1] // _SECOND)
