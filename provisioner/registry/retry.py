"""When to try again: what may go well later, how long to wait for it, and when to give up."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from provisioner.errors import NetworkError

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 30.0
"""The first pause, and the longest of those that are twice the one before."""

PATIENCE_SECONDS = 300.0
"""How long it may go on without any progress, pauses and silence included."""

PAUSES, PAUSES_AT_FIRST = 8, 2
"""Pauses in a row without any progress; fewer until something has been got in this run: a wrong name is told soon."""

PROGRESS = 1 << 16
"""Bytes that make a try one that went well, also if it broke off: so the number of tries has a limit for each blob."""


class Transient(NetworkError):
    """What may go well later. `after` is how many seconds the server wants to be left alone; 0 where it doesn't say."""

    def __init__(self, message: str, hint: str = "try again later", after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """Time and chance, as a run has them; tests have their own."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


class Backoff:
    """The pauses of one document or blob, at most `pauses` in a row: longer each time, and never quite the same."""

    def __init__(self, patience: Patience, pauses: int) -> None:
        self._patience = patience
        self._pauses = pauses
        self.progressed()

    def progressed(self) -> None:
        """Count from here: something has been got."""
        self._taken = 0
        self._since = self._patience.clock()

    def pause(self, after: float = 0.0) -> float | None:
        """Seconds to wait before the next try, at least `after`. None when it is time to give up."""
        if self._taken >= self._pauses:
            return None
        own = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self._taken)
        seconds = max(after, 0.0) + own * (1 + self._patience.random()) / 2
        if self._patience.clock() - self._since + seconds > PATIENCE_SECONDS:
            return None
        self._taken += 1
        return seconds


def retry_after(headers: Mapping[str, str]) -> float:
    """What `Retry-After` says, in seconds from now (RFC 9110, 10.2.3). 0 where it is missing, past, or no such thing.

    A date counts from the server's own `Date`: a phone's clock may be wrong.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", text):
        return float(text)
    until = _timestamp(text)
    now = _timestamp(headers.get("Date", ""))
    return max(0.0, until - (time.time() if now is None else now)) if until is not None else 0.0


def _timestamp(text: str) -> float | None:
    try:
        return float(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
