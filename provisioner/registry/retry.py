"""Retries: the failures after which another try may succeed, the pauses before it, and when to give up."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from provisioner.errors import NetworkError

FIRST_PAUSE_SECONDS = 0.5
"""The first pause. Each following one is twice as long."""

LONGEST_PAUSE_SECONDS = 30.0
"""Pauses grow up to this length."""

GIVE_UP_SECONDS = 300.0
"""The longest time without progress, including pauses and silence of the server."""

MAX_PAUSES = 8
"""The most pauses in a row without progress."""

MAX_PAUSES_AT_FIRST = 2
"""The same before the first answer of this run, so that a misspelt host is reported soon."""

PROGRESS_BYTES = 1 << 16
"""A try that got this many bytes resets the retry counter, even if it failed. So the number of tries has a limit."""


class TransientError(NetworkError):
    """A failure after which another try may succeed."""

    def __init__(self, message: str, hint: str = "try again later", after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.after = after
        """Seconds to wait, as the server asked; 0 if it didn't."""


@dataclass(frozen=True)
class Timing:
    """The clock and the randomness of retries. Tests pass their own."""

    clock: Callable[[], float] = time.monotonic
    """Returns a time in seconds that never goes back."""
    sleep: Callable[[float], None] = time.sleep
    """Waits for a number of seconds."""
    random: Callable[[], float] = random.random
    """Returns a number from 0 to 1."""


class Backoff:
    """The pauses for one document or blob: at most `pauses` in a row, growing, and shortened at random."""

    def __init__(self, timing: Timing, pauses: int) -> None:
        self._timing = timing
        self._pauses = pauses
        self.reset()

    def reset(self) -> None:
        """Reset the counter. It is called after progress."""
        self._count = 0
        self._since = self._timing.clock()

    def pause(self, after: float = 0.0) -> float | None:
        """Return the seconds to wait before the next try, at least `after`; None when it is time to give up."""
        if self._count >= self._pauses:
            return None
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._count)
        seconds = max(after, 0.0) + longest * (1 + self._timing.random()) / 2
        if self._timing.clock() - self._since + seconds > GIVE_UP_SECONDS:
            return None
        self._count += 1
        return seconds


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a `Retry-After` header (RFC 9110, 10.2.3); 0 where it is missing, malformed or in the past.

    A date is compared with the server's own `Date` header, since the clock of a phone may be wrong.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", text):
        return float(text)
    until = _timestamp(text)
    now = _timestamp(headers.get("Date", ""))
    return max(0.0, until - (time.time() if now is None else now)) if until is not None else 0.0


def _timestamp(text: str) -> float | None:
    """Return an HTTP date as seconds since the epoch, or None if the text is none."""
    try:
        return float(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
