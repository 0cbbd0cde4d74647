"""Steps, errors and progress on standard error: a line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TextIO

from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import ColourChoice, Screen, Style
from provisioner.terminal.transfer import Transfer, Unpacked, join_fitting, progress_line, status_line
from provisioner.terminal.wrapping import fill, style_commands
from provisioner.threads import BackgroundThread

_INTERVAL = 0.1
"""Seconds between two looks at how far a transfer is."""
_LOG_INTERVAL = 30.0
"""Seconds between two lines about a transfer where there is no bar."""
_LOG_COLUMNS = 100
REQUEST_LOGGER = "provisioner.requests"
"""The name of the logger that `provisioner.registry` writes its requests to; `--verbose` shows them."""


class Console:
    """Writes steps and errors to a stream, standard error by default.

    With `quiet` it writes errors only, with `verbose` details too. Every text is escaped here once more, so that it is
    one line and safe on a terminal; where that is too narrow for it, it is broken between words. Errors begin in red
    and warnings in yellow, where `colour` allows it.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        colour: ColourChoice = "auto",
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._screen = Screen.of(self._stream, colour)
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Any = None
        self._warned: set[str] = set()

    def step(self, text: str) -> None:
        """Write one line about the work, above the bar where there is one. May be called from any thread."""
        if not self._quiet:
            self._write(text)

    def line(self, text: str) -> None:
        """Write one line about the work, cut to the columns that there are. May be called from any thread."""
        screen = Screen.of(self._stream)
        self.step(screen.cut(printable(text), screen.width or _LOG_COLUMNS))

    def detail(self, text: str) -> None:
        """Write one line that few need, with `verbose` only. May be called from any thread."""
        if self._verbose:
            self.step(text)

    def warn(self, text: str) -> None:
        """Write a warning, also with `quiet`; each text once. May be called from any thread."""
        if text not in self._warned:
            self._warned.add(text)
            self._write(text, f"{self._screen.styled('provision:', Style.YELLOW)} ")

    def _write(self, text: str, begin: str = "") -> None:
        """Write one line, above the bar where there is one. `begin` comes before it, and is not escaped."""
        text = self._fill(begin + printable(text))
        bar = self._bar  # another thread may close it now, which does no harm
        if bar is not None:
            bar.write(text, file=self._stream)
        else:
            self._stream.write(f"{text}\n")  # at once: a signal comes before it or behind it
            self._stream.flush()

    def error(self, message: str, hint: str = "") -> None:
        """Write an error and, on a line of its own, its hint."""
        print(self._fill(f"{self._screen.styled('provision:', Style.RED)} {printable(message)}"), file=self._stream)
        if hint:
            text = style_commands(printable(hint), self._screen.bold)
            print(f"  {self._fill(text, indented=2)}", file=self._stream)

    def _fill(self, text: str, indented: int = 0) -> str:
        """Return a text in lines that leave `indented` columns of the terminal free."""
        width = Screen.of(self._stream).width  # asked for each time: windows change
        return fill(text, width and width - indented)

    @contextmanager
    def transfer(self, total: int, unpacked: Callable[[], Unpacked]) -> Iterator[Transfer]:
        """Show how far the download of `total` bytes and their unpacking are, in one line on a terminal.

        `unpacked` returns what has been unpacked so far.
        """
        transfer = Transfer(total, unpacked)
        if self._quiet:
            yield transfer
            return
        show = self._log
        if self._has_bar():
            self._bar, show = _bar_factory()(file=self._stream), self._refresh
        try:
            with _in_background(partial(show, transfer)):
                yield transfer
        finally:
            if self._bar is not None:
                self._close_bar()

    @contextmanager
    def activity(self, what: str, count: Callable[[], str] | None = None) -> Iterator[None]:
        """Show what is being done, in a line that is gone in the end; on a terminal only.

        `count` returns how far it is, in words. With it this has a thread.
        """
        if self._quiet or not self._has_bar():
            yield
            return
        self._bar = _bar_factory()(file=self._stream)
        try:
            self.show(lambda columns: self._screen.cut(what, columns))
            with _in_background(partial(self._recount, what, count)) if count else nullcontext():
                yield
        finally:
            self._close_bar()

    @contextmanager
    def byte_activity(self, what: str) -> Iterator[Callable[[int], None]]:
        """Show what is being done, and how many bytes of it are done: give the function that adds to them."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count

        with self.activity(what, lambda: size_text(done)):
            yield advance

    def _has_bar(self) -> bool:
        """Return whether the stream is a terminal on which a line can be rewritten."""
        return self._stream.isatty() and os.environ.get("TERM") not in ("", "dumb")

    def _refresh(self, transfer: Transfer, ended: threading.Event) -> None:
        """Show the state of a transfer again and again, until it has ended."""
        while not ended.wait(_INTERVAL):
            self.show(partial(status_line, transfer.state()))

    def _recount(self, what: str, count: Callable[[], str], ended: threading.Event) -> None:
        """Show what is being done, and how far it is, again and again, until it has ended."""
        while not ended.wait(_INTERVAL):
            self.show(partial(join_fitting, [what, count()]))

    def _log(self, transfer: Transfer, ended: threading.Event) -> None:
        """Write a line about the state of a transfer now and then, until it has ended."""
        while not ended.wait(_LOG_INTERVAL):
            self.step(status_line(transfer.state(), _LOG_COLUMNS))

    def _close_bar(self) -> None:
        """Clear the line of the bar, and what the terminal has echoed behind it, such as ^C."""
        with suppress(OSError, ValueError):  # the terminal is gone
            self._stream.write(f"\r{' ' * self._columns()}\r")
        self._bar.close()
        self._bar = None

    def _columns(self) -> int:
        """Return how many columns a line may have so that the terminal doesn't wrap it."""
        return os.get_terminal_size(self._stream.fileno()).columns - 1

    @contextmanager
    def progress(self, total: int | None, unit: str = "B") -> Iterator[Progress]:
        """Show progress over `total` bytes, or other units: one line on a terminal, else one for each description.

        `total` is None where it isn't known.
        """
        if self._quiet or not self._has_bar():
            yield Progress(self)
            return
        self._bar = _bar_factory()(file=self._stream)
        try:
            yield Progress(self, Transfer(total or 0), unit, is_known=total is not None)
        finally:
            self._close_bar()

    def show(self, line: Callable[[int], str]) -> None:
        """Show what `line` returns for a number of columns, where there is a bar."""
        bar = self._bar  # as in `_write`
        if bar is not None:
            with suppress(OSError, ValueError):  # the terminal is gone
                bar.set_description_str(printable(line(self._columns())))


@contextmanager
def _in_background(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `show` in a thread, with an event that is set when the context is left."""
    ended = threading.Event()
    thread = BackgroundThread(partial(show, ended), "progress")
    thread.try_start()  # without a thread the line isn't shown, and the work goes on
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


def _bar_factory() -> Callable[..., Any]:
    """Return a function that makes a bar of tqdm: a line that is rewritten in place and erased when it is closed.

    Importing tqdm is slow.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # a thread of its own would keep the process from forking workers
    return partial(tqdm, bar_format="{desc}", leave=False)


class Progress:
    """The progress of one job: how many of its bytes are done, and a description. May be used from any thread.

    It has no thread of its own, which would keep the process from forking.
    """

    def __init__(
        self, console: Console, done: Transfer | None = None, unit: str = "B", *, is_known: bool = True
    ) -> None:
        self._console = console
        self._done = done
        self._unit = unit
        self._is_known = is_known
        self._lock = threading.Lock()
        self._shown = 0.0

    def advance(self, count: int) -> None:
        """Add `count` bytes to those that are done."""
        if self._done is None:
            return
        self._done(count)
        if time.monotonic() - self._shown >= _INTERVAL:
            self._show()

    def describe(self, text: str) -> None:
        """Show what is being done now."""
        if self._done is None:
            self._console.step(text)
        else:
            self._done.describe(text)
            self._show()

    def _show(self) -> None:
        state = self._done.state() if self._done else None
        if state is not None:
            with self._lock:
                self._shown = time.monotonic()
                self._console.show(partial(progress_line, state, self._unit, is_known=self._is_known))
