"""Steps, errors and progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from provisioner.terminal.escaping import printable
from provisioner.terminal.transfer import Transfer, status_line
from provisioner.threads import BackgroundThread

_INTERVAL = 0.1
"""Seconds between two looks at how far a transfer is."""
REQUEST_LOGGER = "provisioner.requests"
"""The name of the logger that `provisioner.registry` writes its requests to; `--verbose` shows them."""


class Console:
    """Writes steps and errors to a stream, standard error by default.

    With `quiet` it writes errors only, with `verbose` details too. Every text is escaped here once more, so that it is
    one line and safe on a terminal.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Any = None
        self._warned: set[str] = set()

    def step(self, text: str) -> None:
        """Write one line about the work, above the bar where there is one. May be called from any thread."""
        if not self._quiet:
            self._write(text)

    def detail(self, text: str) -> None:
        """Write one line that few need, with `verbose` only. May be called from any thread."""
        if self._verbose:
            self.step(text)

    def warn(self, text: str) -> None:
        """Write a line that matters even where nothing but errors is wanted; each text once. From any thread."""
        if text not in self._warned:
            self._warned.add(text)
            self._write(f"provision: {text}")

    def _write(self, text: str) -> None:
        """Write one line, above the bar where there is one."""
        text = printable(text)
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def error(self, message: str, hint: str = "") -> None:
        """Write an error and, on a line of its own, its hint."""
        print(f"provision: {printable(message)}", file=self._stream)
        if hint:
            print(f"  {printable(hint)}", file=self._stream)

    @contextmanager
    def transfer(self, total: int, unpacked: Callable[[], int]) -> Iterator[Transfer]:
        """Show how far the download of `total` bytes and their unpacking are, in one line on a terminal.

        `unpacked` returns how many bytes of files have been written.
        """
        transfer = Transfer(total, unpacked)
        if self._quiet or not self._stream.isatty():
            yield transfer
            return
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # a thread of its own would keep the process from forking workers
        self._bar = tqdm(bar_format="{desc}", file=self._stream, leave=False)
        ended = threading.Event()
        thread = BackgroundThread(lambda: self._refresh(transfer, ended), "progress")
        with suppress(MemoryError, RuntimeError):  # without a thread the line isn't shown, and the work goes on
            thread.start()
        try:
            yield transfer
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join(1.0)
            self._bar.close()
            self._bar = None

    def _refresh(self, transfer: Transfer, ended: threading.Event) -> None:
        """Show the state of a transfer again and again, until it has ended."""
        while not ended.wait(_INTERVAL):
            with suppress(OSError, ValueError):  # the terminal is gone
                columns = os.get_terminal_size(self._stream.fileno()).columns - 1
                self._bar.set_description_str(printable(status_line(transfer.state(), columns)))

    @contextmanager
    def progress(self, total: int | None, unit: str = "B") -> Iterator[Progress]:
        """Show progress over `total` bytes, or other units: a bar on a terminal, else a line for each description.

        `total` is None where it isn't known.
        """
        if self._quiet or not self._stream.isatty():
            yield Progress(self)
            return
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # a thread of its own would keep the process from forking workers
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
    """The progress of one job: how many of its bytes are done, and a description. May be used from any thread."""

    def __init__(self, console: Console, bar: Any = None) -> None:
        self._console = console
        self._bar = bar
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """Add `count` bytes to those that are done."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(count)

    def describe(self, text: str) -> None:
        """Show what is being done now."""
        if self._bar is None:
            self._console.step(text)
        else:
            self._bar.set_description_str(printable(text))
