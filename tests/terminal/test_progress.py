from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TextIO

import pytest

from provisioner.terminal.progress import Console, _bar_factory
from provisioner.terminal.tables import ColourChoice
from provisioner.terminal.transfer import Unpacked
from tests.support.tools import open_terminal
from tests.support.waiting import wait_until

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A real terminal of 100 columns: a `stream` to write to, and what it shows."""

    def __init__(self) -> None:
        self._outer, inner = open_terminal()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.stream: TextIO = open(inner, "w", encoding="utf-8")  # noqa: SIM115
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._outer, 4096):
                self._shown += data
        except OSError:  # the other end is closed: EIO
            pass

    def until(self, text: str) -> None:
        """Wait until `text` has been written to it, in whatever colours."""
        wait_until(lambda: text in COLOUR.sub("", self._shown.decode(errors="replace")))

    def shown(self) -> str:
        """Close the terminal and return all that was written to it."""
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._outer)
        return self._shown.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    opened = Terminal()
    yield opened
    opened.shown()


def nothing_unpacked() -> Unpacked:
    return Unpacked(0, 0)


def work(console: Console) -> None:
    """Write the steps and the progress of a run."""
    console.step("begin")
    with console.progress(2_000_000) as progress:
        progress.describe("unpack layer 1 of 2")
        progress.advance(500_000)
        progress.describe("unpack layer 2 of 2")
        progress.advance(1_500_000)
    console.step("end")


def test_a_terminal_gets_a_bar_which_is_gone_in_the_end(terminal: Terminal) -> None:
    work(Console(stream=terminal.stream))
    shown = terminal.shown()
    assert "0 %, 0 B of 2.0 MB, unpack layer 1 of 2" in shown
    assert "25 %, 500.0 kB of 2.0 MB, unpack layer 2 of 2" in shown
    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n") if line]
    assert [line.strip() for line in lines] == ["begin", "end"]


def test_a_bar_fits_the_terminal(terminal: Terminal) -> None:
    work(Console(stream=terminal.stream))
    assert max(len(part) for part in re.split(r"[\r\n]", terminal.shown())) <= 100


@pytest.mark.parametrize(
    ("variables", "colour", "expected"),
    [
        ({}, "auto", True),
        ({"NO_COLOR": "1"}, "auto", False),
        ({"TERM": "dumb"}, "auto", False),
        ({"TERM": ""}, "auto", False),
        ({}, "never", False),
        ({"NO_COLOR": "1", "TERM": "dumb"}, "always", True),
    ],
)
def test_errors_are_red_warnings_yellow_and_commands_bold(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    colour: ColourChoice,
    expected: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console = Console(stream=terminal.stream, colour=colour)
    console.warn("careful\x1b[31m")
    console.error("it failed\x1b[31m", "did you mean: provision list; or ./web/start.sh --shell, \x1b[1m")
    shown = terminal.shown().replace("\r\n", "\n")
    assert COLOUR.sub("", shown) == (
        "provision: careful\\x1b[31m\n"
        "provision: it failed\\x1b[31m\n  did you mean: provision list; or ./web/start.sh --shell, \\x1b[1m\n"
    )
    codes = ["33", "0", "31", "0", "1", "0", "1", "0"] if expected else []
    assert re.findall(r"\x1b\[([0-9;]*)m", shown) == codes
    if expected:
        assert "\x1b[1mprovision list\x1b[0m; or \x1b[1m./web/start.sh --shell\x1b[0m," in shown


@pytest.mark.parametrize("hint", ["provision doesn't build images", "try again", "name a directory of provision"])
def test_what_is_no_command_is_not_bold(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, hint: str) -> None:
    Console(stream=terminal.stream, colour="always").error("it failed", hint)
    assert "\x1b[1m" not in terminal.shown()


def test_elsewhere_there_are_plain_lines() -> None:
    stream = io.StringIO()
    work(Console(stream=stream))
    assert stream.getvalue() == "begin\nunpack layer 1 of 2\nunpack layer 2 of 2\nend\n"


def test_a_line_is_written_at_once() -> None:
    """Otherwise the message of a signal that arrives in between would follow on the same line."""

    class Stream(io.StringIO):
        def write(self, text: str, /) -> int:
            assert text.endswith("\n")
            return super().write(text)

    stream = Stream()
    Console(stream=stream).step("a step")
    assert stream.getvalue() == "a step\n"


def test_quiet_says_errors_only(terminal: Terminal) -> None:
    elsewhere = io.StringIO()
    for stream in (terminal.stream, elsewhere):
        console = Console(quiet=True, colour="never", stream=stream)
        work(console)
        console.error("it failed", "fix it")
        console.error("again")
    expected = "provision: it failed\n  fix it\nprovision: again\n"
    assert terminal.shown().replace("\r\n", "\n") == elsewhere.getvalue() == expected


def test_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Console().step("hello")
    Console().error("broken")
    assert capsys.readouterr() == ("", "hello\nprovision: broken\n")


@pytest.mark.parametrize("tty", [True, False])
def test_progress_is_reported_from_any_thread_and_after_the_end(terminal: Terminal, tty: bool) -> None:
    console = Console(stream=terminal.stream if tty else io.StringIO())
    with console.progress(4_000_000) as progress:

        def advance() -> None:
            for _ in range(1_000):
                progress.advance(1_000)

        threads = [threading.Thread(target=advance) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress.describe("all is there")
    progress.advance(1)
    if tty:
        assert "100 %, 4.0 MB of 4.0 MB" in terminal.shown()
        assert ", all is there" in terminal.shown()


def test_lines_go_above_the_bar_also_from_other_threads(terminal: Terminal) -> None:
    console = Console(stream=terminal.stream)
    with console.progress(1000) as progress:
        progress.advance(500)
        thread = threading.Thread(target=console.step, args=("a mirror is down",))
        thread.start()
        thread.join()
        progress.advance(500)
    console.step("done")
    lines = [line.strip() for line in re.split(r"[\r\n]+", COLOUR.sub("", terminal.shown())) if line.strip()]
    assert "a mirror is down" in lines
    assert lines[-1] == "done"


class ClosingConsole(Console):
    """A console whose bar another thread closes as soon as it was looked at."""

    _found: Any = None

    @property
    def _bar(self) -> Any:
        found, self._found = self._found, None
        return found

    @_bar.setter
    def _bar(self, bar: Any) -> None:
        self._found = bar


@pytest.mark.parametrize("text", ["a mirror is down", ""])
def test_a_bar_may_be_closed_while_another_thread_writes(terminal: Terminal, text: str) -> None:
    console = ClosingConsole(stream=terminal.stream)
    with closing(_bar_factory()(file=terminal.stream)) as bar:
        console._bar = bar
        if text:
            console.step(text)
        else:
            console.show(lambda columns: "12 % of it")
    assert text in terminal.shown()


def test_a_warning_is_written_once_even_where_only_errors_are_wanted() -> None:
    stream = io.StringIO()
    console = Console(quiet=True, stream=stream)
    for text in ("one", "one", "two"):
        console.warn(text)
    console.step("a step")
    assert stream.getvalue() == "provision: one\nprovision: two\n"


def test_a_bar_has_no_thread(terminal: Terminal) -> None:
    before = set(threading.enumerate())
    with Console(stream=terminal.stream).progress(None) as progress:
        progress.advance(1)
        assert set(threading.enumerate()) <= before  # those of other tests may end at any time


def test_a_transfer_is_one_line_which_is_gone_in_the_end(terminal: Terminal) -> None:
    console = Console(stream=terminal.stream)
    with console.transfer(4_000_000, lambda: Unpacked(5_000_000, 12)) as transfer:
        transfer.describe("layer 1 of 2")
        transfer.count_cached(1_000_000)
        terminal.until("25 %, 1.0 MB of 4.0 MB, layer 1 of 2")
        console.step("layer 1 of 2: 1.0 MB")
        transfer(3_000_000)
        terminal.until("unpacking, 5.0 MB, 12 entries")
    console.step("end")
    shown = COLOUR.sub("", terminal.shown())
    lines = [line.rpartition("\r")[2].strip() for line in shown.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line] == ["layer 1 of 2: 1.0 MB", "end"]


def test_elsewhere_a_transfer_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with Console(stream=stream).transfer(4_000_000, nothing_unpacked) as transfer:
        transfer(4_000_000)
    assert stream.getvalue() == "", "not in the first seconds"
    monkeypatch.setattr("provisioner.terminal.progress._LOG_INTERVAL", 0.01)
    with Console(stream=stream).transfer(4_000_000, nothing_unpacked) as transfer:
        transfer.count_cached(1_000_000)
        wait_until(lambda: stream.getvalue().count("\n") >= 2)
    assert set(stream.getvalue().splitlines()) <= {"25 %, 1.0 MB of 4.0 MB", "0 %, 0 B of 4.0 MB"}
    with Console(stream=stream, quiet=True).transfer(4_000_000, nothing_unpacked):
        stream.truncate(0)
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_a_dumb_terminal_has_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(stream=terminal.stream)
    work(console)
    with console.transfer(4_000_000, nothing_unpacked):
        time.sleep(0.3)
    assert terminal.shown().replace("\r\n", "\n") == "begin\nunpack layer 1 of 2\nunpack layer 2 of 2\nend\n"


def test_what_a_terminal_echoes_behind_the_bar_is_cleared(terminal: Terminal) -> None:
    """Ctrl-C shows ^C there."""
    with Console(stream=terminal.stream).transfer(4_000_000, nothing_unpacked):
        terminal.until("0 %, 0 B of 4.0 MB")
    assert f"\r{' ' * 99}\r" in terminal.shown()


def test_what_is_being_done_is_one_line_which_is_gone_in_the_end(terminal: Terminal) -> None:
    console, elsewhere = Console(stream=terminal.stream), io.StringIO()
    with console.activity("writing to the disk"):
        console.step("3.0 MB are left")
    counts = iter(range(1_000))
    with console.activity("copying", lambda: f"{next(counts)} files"):
        terminal.until("copying, ")
    with (
        Console(quiet=True, stream=terminal.stream).activity("quiet"),
        Console(stream=elsewhere).activity("no terminal"),
    ):
        pass
    shown = COLOUR.sub("", terminal.shown())
    assert "writing to the disk" in shown
    assert re.search("copying, [0-9]+ files", shown)
    assert "quiet" not in shown
    lines = [line.rpartition("\r")[2].strip() for line in shown.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line] == ["3.0 MB are left"]
    assert elsewhere.getvalue() == ""


def test_a_line_is_cut_where_there_are_no_more_columns(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
    Console(stream=terminal.stream).line("layer 1 of 6: 63.3 MB, " + "word " * 30)
    (line,) = terminal.shown().splitlines()
    assert (line[:25], line[-2:], len(line)) == ("layer 1 of 6: 63.3 MB, wo", "w…", 100)
    elsewhere = io.StringIO()
    Console(stream=elsewhere).line("x" * 200)
    assert len(elsewhere.getvalue()) == 101
    Console(quiet=True, stream=elsewhere).line("quiet")
    assert "quiet" not in elsewhere.getvalue()
