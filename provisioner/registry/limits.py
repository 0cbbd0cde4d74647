"""How many requests a registry allows, as it tells in headers: Docker Hub's `ratelimit-*` and `Retry-After`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.registry.retry import retry_after

_LONGEST = 40 * 86400
"""The most seconds that are believed."""


@dataclass(frozen=True)
class RateLimit:
    """What is allowed in `window` seconds, what of it is left, and when to come again (a time of the epoch).

    None is what the registry doesn't tell.
    """

    allowed: int | None = None
    left: int | None = None
    window: int | None = None
    again: float | None = None
    now: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, str], now: float) -> RateLimit:
        """Make it of an answer's headers (of any spelling, as requests has them). What is malformed is not told."""
        allowed, window = _quota(headers.get("ratelimit-limit", ""))
        left, other = _quota(headers.get("ratelimit-remaining", ""))
        after = min(retry_after(headers), _LONGEST)
        return cls(allowed, left, window or other, now + after if after else None, now)

    @property
    def mend(self) -> str:
        """What to do about it."""
        if self.again is None:
            return f"wait, at most {_span(self.window)}" if self.window else "wait a few minutes and try again"
        clock = time.strftime("%H:%M" if self.again - self.now < 43200 else "%d %b %H:%M", time.localtime(self.again))
        return f"try again in {_span(self.again - self.now)}, at {clock}"

    def __str__(self) -> str:
        """`; 100 are allowed in 6 hours, 0 are left`, to follow what was refused; nothing where nothing is told."""
        span = f" in {_span(self.window)}" if self.window else ""
        parts = [f"{self.allowed} are allowed{span}"] if self.allowed is not None else []
        parts += [f"{self.left} are left"] if self.left is not None else []
        return f"; {', '.join(parts)}" if parts else ""


def _quota(header: str) -> tuple[int | None, int | None]:
    """The number and the window in seconds of `100;w=21600`."""
    match = re.match(r"\s*([0-9]{1,9})(?:\s*;\s*w=([0-9]{1,9}))?\s*(?:[;,]|$)", header)
    return (int(match[1]), min(int(match[2]), _LONGEST) if match[2] else None) if match else (None, None)


def _span(seconds: float) -> str:
    """A duration as people say it, rounded up: `42 minutes`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or seconds == length:
            return _counted(-int(-seconds // length), unit)
    return _counted(max(1, -int(-seconds // 1)), "second")


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")
