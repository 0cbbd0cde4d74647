"""Rate limits of registries, from the headers of an answer: Docker Hub's `ratelimit-*`, and `Retry-After`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.registry.retry import retry_after

_MAX_SECONDS = 40 * 86400
"""The longest time in headers; longer ones count as this."""


@dataclass(frozen=True)
class RateLimit:
    """The number of requests that a registry allows. None means unknown."""

    limit: int | None = None
    """Requests that are allowed in each window."""
    remaining: int | None = None
    """Requests that are left in the current window."""
    window: int | None = None
    """The length of a window in seconds."""
    retry_at: float | None = None
    """The time of the next allowed try, in seconds since the epoch."""
    now: float = 0.0
    """The time when the headers arrived, in seconds since the epoch."""

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], now: float) -> RateLimit:
        """Return the limit in the headers of an answer at the time `now`. Malformed headers count as missing."""
        limit, window = _quota(headers.get("ratelimit-limit", ""))
        remaining, other = _quota(headers.get("ratelimit-remaining", ""))
        after = min(retry_after(headers), _MAX_SECONDS)
        return cls(limit, remaining, window or other, now + after if after else None, now)

    @property
    def hint(self) -> str:
        """Return what a user can do: `try again in 41 minutes, at 17:20`."""
        if self.retry_at is None:
            return f"wait, at most {_duration(self.window)}" if self.window else "wait a few minutes and try again"
        seconds = self.retry_at - self.now
        clock = time.strftime("%H:%M" if seconds < 43200 else "%d %b %H:%M", time.localtime(self.retry_at))
        return f"try again in {_duration(seconds)}, at {clock}"

    def __str__(self) -> str:
        """Return `; 100 are allowed in 6 hours, 0 are left`, to be appended to a message; empty if nothing is known.

        The leading semicolon is part of it.
        """
        span = f" in {_duration(self.window)}" if self.window else ""
        parts = [f"{self.limit} are allowed{span}"] if self.limit is not None else []
        parts += [f"{self.remaining} are left"] if self.remaining is not None else []
        return f"; {', '.join(parts)}" if parts else ""


def _quota(header: str) -> tuple[int | None, int | None]:
    """Return the number and the window in seconds of `100;w=21600`; None for a missing one."""
    match = re.match(r"\s*([0-9]{1,9})(?:\s*;\s*w=([0-9]{1,9}))?\s*(?:[;,]|$)", header)
    return (int(match[1]), min(int(match[2]), _MAX_SECONDS) if match[2] else None) if match else (None, None)


def _duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits, rounded up: `42 minutes`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or seconds == length:
            return _format_count(-int(-seconds // length), unit)
    return _format_count(max(1, -int(-seconds // 1)), "second")


def _format_count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")
