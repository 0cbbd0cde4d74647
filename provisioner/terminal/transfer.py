"""One line on a terminal: about a download and the unpacking of what arrives, or another long job."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provisioner.sizes import counted, size_text

_WINDOW = 5.0
"""Seconds over which the speed is measured."""
_FIRST = 0.5
"""Seconds before a speed is shown."""


@dataclass(frozen=True)
class TransferState:
    """How far a download and its unpacking are. Sizes are in bytes."""

    total: int
    """What the image takes, compressed."""
    arrived: int
    """How much of it is on this machine: what the cache had before and what has been received."""
    received: int
    """How much of it has been received in this run."""
    speed: float
    """Bytes received a second, over the last seconds; 0 where nothing is known."""
    unpacked: int
    """How much of its files has been written."""
    what: str
    """What is being done, such as `layer 2 of 5`."""


def status_line(state: TransferState, columns: int) -> str:
    """Return the line about a state: the parts that fit into `columns`, the most important ones first, each whole."""
    if state.arrived < state.total:
        share = f"{state.arrived * 100 // state.total} %"
        parts = [share, f"{size_text(state.arrived)} of {size_text(state.total)}"]
        if state.speed >= 1:
            parts += [f"{size_text(int(state.speed))}/s", _time_left(state)]
    else:
        parts = ["unpacking", size_text(state.unpacked)]
    return _join_fitting([*parts, state.what], columns)


def progress_line(state: TransferState, unit: str, columns: int, *, is_known: bool = True) -> str:
    """Return the line about a job of bytes, with the unit "B", or of so many things, such as "tag".

    `is_known` says whether `state.total` is.
    """
    if unit != "B":
        done = f"{state.arrived:,} of {counted(state.total, unit)}" if is_known else counted(state.received, unit)
        return _join_fitting([done, state.what], columns)
    speed = f"{size_text(int(state.speed))}/s" if state.speed >= 1 else ""
    if not is_known:
        return _join_fitting([size_text(state.received), speed, state.what], columns)
    share = f"{state.arrived * 100 // max(state.total, 1)} %" if state.arrived < state.total else "100 %"
    left = _time_left(state) if speed and state.arrived < state.total else ""
    sizes = f"{size_text(state.arrived)} of {size_text(state.total)}"
    return _join_fitting([share, sizes, speed, left, state.what], columns)


def _join_fitting(parts: Sequence[str], columns: int) -> str:
    """Return the parts that fit into `columns` in one line. A part that doesn't fit is left out as a whole."""
    chosen: list[str] = []
    for part in parts:
        if part and len(", ".join([*chosen, part])) <= columns:
            chosen.append(part)
    return ", ".join(chosen)


def _time_left(state: TransferState) -> str:
    """Return the time that the rest takes at this speed, in the largest unit that says enough."""
    seconds = int((state.total - state.arrived) / state.speed) + 1
    if seconds < 100:
        return f"{seconds} s left"
    minutes = -(-seconds // 60)
    return f"{minutes} min left" if minutes < 100 else f"{-(-minutes // 60)} h left"


class Transfer:
    """Counts what arrives and what is unpacked. All methods may be called by any thread."""

    def __init__(self, total: int, unpacked: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """`total` is the size of the whole in bytes; `unpacked` returns how many bytes of files have been written."""
        self._total = total
        self._unpacked = unpacked
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = self._received = 0
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._what = ""

    def __call__(self, count: int, /) -> None:
        """Count bytes that were received; less than 0 for those that will be received again."""
        with self._lock:
            self._arrived += count
            self._received += count
            now = self._clock()
            if now - self._samples[-1][0] >= _WINDOW / 50:
                self._samples.append((now, self._received))
                while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW:
                    self._samples.popleft()

    def count_cached(self, count: int, /) -> None:
        """Count bytes that the cache had before this run; they don't count for the speed."""
        with self._lock:
            self._arrived += count

    def describe(self, what: str) -> None:
        """Set the text about what is being done."""
        with self._lock:
            self._what = what

    def state(self) -> TransferState:
        """Return how far it is now."""
        with self._lock:
            now, (then, count) = self._clock(), self._samples[0]
            seconds = now - then
            speed = max(0.0, (self._received - count) / seconds) if seconds >= _FIRST else 0.0
            return TransferState(
                self._total, min(self._arrived, self._total), self._received, speed, self._unpacked(), self._what
            )
