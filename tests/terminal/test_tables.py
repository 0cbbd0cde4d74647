"""Tables on terminals of any width, and in pipes."""

from __future__ import annotations

import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.terminal.tables import Column, Screen, Style, cell_text, count_text, folded, table, width_of, wrapped
from tests.support.tools import open_terminal

COLUMNS = (
    Column("NAME"),
    Column(""),
    Column("STARS", "{} stars", right=True),
    Column("DIGEST", optional=True),
    Column("DESCRIPTION", flexible=True),
)
ROWS = [
    ("ubuntu", "official", "17.3k", "0123456789ab", "Ubuntu is a Debian-based Linux operating system."),
    ("user/image", "", "3", "ba9876543210", "漢字かな交じり文 is wide"),
]


def shown(width: int | None, **options: bool) -> list[str]:
    return list(table(COLUMNS, ROWS, Screen(width, **options)))


def test_in_a_pipe_nothing_is_cut() -> None:
    assert shown(None) == [
        "NAME                  STARS  DIGEST        DESCRIPTION",
        "ubuntu      official  17.3k  0123456789ab  Ubuntu is a Debian-based Linux operating system.",
        "user/image                3  ba9876543210  漢字かな交じり文 is wide",
    ]


def test_first_the_optional_column_goes_then_the_flexible_one_is_cut() -> None:
    assert shown(80) == [
        "NAME                  STARS  DESCRIPTION",
        "ubuntu      official  17.3k  Ubuntu is a Debian-based Linux operating system.",
        "user/image                3  漢字かな交じり文 is wide",
    ]
    assert shown(55)[1:] == [
        "ubuntu      official  17.3k  Ubuntu is a Debian-based…",
        "user/image                3  漢字かな交じり文 is wide",
    ]


def test_a_phone_gets_stacked_rows() -> None:
    assert shown(40) == [
        "ubuntu",
        "  official · 17.3k stars",
        "  Ubuntu is a Debian-based Linux",
        "  operating system.",
        "user/image",
        "  3 stars",
        "  漢字かな交じり文 is wide",
    ]


def test_one_long_note_goes_below_its_row() -> None:
    """The other rows are as they would be without it, and on a phone it is in the stacked row."""
    columns = (*COLUMNS[:4], Column("NOTE", flexible=True, below=True))
    rows = [(*ROWS[0][:4], ""), (*ROWS[1][:4], "a note of many words that has no room beside the other cells")]
    assert list(table(columns, rows, Screen(50))) == [
        "NAME                  STARS  DIGEST",
        "ubuntu      official  17.3k  0123456789ab",
        "user/image                3  ba9876543210",
        "  a note of many words that has no room beside the",
        "  other cells",
    ]
    assert list(table(columns, rows, Screen(25)))[-4:] == [
        "  3 stars",
        "  a note of many words",
        "  that has no room beside",
        "  the other cells",
    ]
    assert next(table(columns, rows, Screen(None))).endswith("DIGEST        NOTE")


def test_without_unicode() -> None:
    assert shown(40, unicode=False)[1] == "  official, 17.3k stars"
    assert shown(55, unicode=False)[1].endswith("Debian-base...")


def test_colours_take_no_room() -> None:
    coloured = shown(80, colour=True)
    assert coloured[0].startswith("\033[2m")
    assert [re.sub(r"\033\[\d*m", "", line) for line in coloured] == shown(80)


def test_cells_have_the_style_of_their_text() -> None:
    columns = (Column("A"), Column("B", "{} b", style=lambda text: Style.RED if text == "bad" else Style.PLAIN))
    rows = [("a", "bad"), ("b" * 30, "good")]
    wide = list(table(columns, rows, Screen(80, colour=True)))
    assert wide[1].endswith("\033[31mbad\033[0m")
    assert wide[2].endswith("good")
    assert list(table(columns, rows, Screen(20, colour=True)))[1] == "  \033[31mbad\033[0m \033[31mb\033[0m"
    assert width_of("\033[31mbad\033[0m") == 3


def test_columns_without_content_are_left_out() -> None:
    assert list(table((Column("A"), Column("B"), Column("C")), [("1", "", "3")], Screen(80))) == ["A  C", "1  3"]
    assert list(table((Column("A"),), [], Screen(80))) == []


def test_cells_cannot_act_on_the_terminal() -> None:
    evil = "a\x1b[2J\x9b1m\x7f\u202eb\n\tc\0"
    lines = list(table((Column("A"), Column("B", flexible=True)), [(evil, evil)], Screen(40)))
    assert all(line.isprintable() for line in lines)
    assert cell_text(evil) == r"a\x1b[2J\x9b1m\x7f\u202eb c\x00"


# Any Unicode text: no line may be wider than the screen.
cells = st.text(st.characters(exclude_categories=()), max_size=60)


@given(st.lists(st.tuples(cells, cells, cells, cells, cells), max_size=4), st.integers(20, 120))
def test_no_line_is_wider_than_the_screen(rows: list[tuple[str, ...]], width: int) -> None:
    with_notes = (*COLUMNS[:4], Column("NOTE", below=True))
    for line in (*table(COLUMNS, rows, Screen(width)), *table(with_notes, rows, Screen(width))):
        assert width_of(line) <= width
        assert line.isprintable()


@given(st.text(), st.integers(2, 50))
def test_folding_changes_nothing_but_lines(text: str, width: int) -> None:
    lines = folded(text, width)
    assert "".join(lines) == text
    assert all(width_of(line) <= width for line in lines)


@given(st.text(), st.integers(2, 50))
def test_wrapping_keeps_all_words(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(width_of(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("漢字", 4), ("\uff46", 2), ("é", 1), ("e\u0301", 1), ("🐎", 2), ("", 0), ("a\u200db", 2)],
)
def test_widths(text: str, columns: int) -> None:
    assert width_of(text) == columns


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (17303, "17.3k"), (999_949, "999.9k"), (999_950, "1.0M"),
     (9_419_966_493, "9.4B"), (10**12, "1000.0B")],
)  # fmt: skip
def test_counts(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("part", "whole", "bar"),
    [(0, 8, ""), (8, 8, "████"), (4, 8, "██"), (5, 8, "██▌"), (1, 10**9, "▏"), (1, 0, "▏"), (0, 0, "")],
)
def test_bars(part: int, whole: int, bar: str) -> None:
    assert Screen(80).bar(part, whole, 4) == bar


def test_bars_without_unicode() -> None:
    plain = Screen(80, unicode=False)
    assert [plain.bar(part, 8, 4) for part in (0, 1, 4, 8)] == ["", "#", "##", "####"]


class Terminal(io.StringIO):
    """A stream whose isatty() is true."""

    encoding = "UTF-8"

    def isatty(self) -> bool:
        return True


def test_the_environment_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Screen.of(Terminal()) == Screen(40, colour=True)
    assert Screen.of(io.StringIO()).width is None
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Screen.of(Terminal()).colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Screen.of(Terminal()).colour


def test_the_width_of_a_real_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    import fcntl
    import struct
    import termios

    leader, follower = open_terminal()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(follower, "w") as stream, os.fdopen(leader):
        assert Screen.of(stream).width == 40
