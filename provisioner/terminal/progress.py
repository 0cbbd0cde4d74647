"""What people see while it works, on standard error: steps, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from provisioner.terminal.escaping import printable


class Console:
    """Says what is being done. With `quiet` only errors are shown.

    Every text is one line, and safe on a terminal: what it would obey or hide is escaped here once more.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bar: Any = None

    def step(self, text: str) -> None:
        """One line about what is being done or has been, above the bar where there is one. From any thread."""
        if self._quiet:
            return
        text = printable(text)
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def error(self, message: str, hint: str = "") -> None:
        """An error and, on a line of its own, its mend."""
        print(f"provision: {printable(message)}", file=self._stream)
        if hint:
            print(f"  {printable(hint)}", file=self._stream)

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
        self._bar = bar
        try:
            with bar:
                yield Progress(self, bar)
        finally:
            self._bar = None


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
            self._bar.set_description_str(printable(text))
