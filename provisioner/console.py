"""What people see while it works, on standard error: steps, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Console:
    """Says what is being done. With `quiet` only errors are shown."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet

    def step(self, text: str) -> None:
        """One line about what is being done or has been."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def error(self, message: str, hint: str = "") -> None:
        """An error and, on a line of its own, its mend."""
        print(f"provision: {message}", file=self._stream)
        if hint:
            print(f"  {hint}", file=self._stream)

    @contextmanager
    def progress(self, total: int, unit: str = "B") -> Iterator[Progress]:
        """Progress over `total` bytes (or a `unit`): a bar on a terminal, else a line for each thing described."""
        if self._quiet or not self._stream.isatty():
            yield Progress(self)
            return
        from tqdm import tqdm

        bar = tqdm(
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            unit_divisor=1000,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
        )
        with bar:
            yield Progress(self, bar)


class Progress:
    """Bytes that have arrived, told from any thread, and what is being done with them."""

    def __init__(self, console: Console, bar: Any = None) -> None:
        self._console = console
        self._bar = bar
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """`count` more bytes are there."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(count)

    def describe(self, text: str) -> None:
        """Say what is being done now."""
        if self._bar is None:
            self._console.step(text)
        else:
            self._bar.set_description_str(text)


def size_text(count: int) -> str:
    """A number of bytes as people read it: `28.9 MB`."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(number, 1) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
