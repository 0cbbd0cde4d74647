"""Tables that fit the terminal, with stacked rows on one as narrow as a phone; in a pipe nothing is cut."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Literal, TextIO

from provisioner.terminal.escaping import printable

_GAP = "  "
_DEFAULT_WIDTH = 80
_NARROWEST = 24
"""Columns that a flexible cell keeps in a table. Where there are fewer, the rows are stacked."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STYLING = re.compile("\033\\[[0-9]*m")

ColourChoice = Literal["auto", "always", "never"]
"""When to write colours: on terminals, everywhere, nowhere."""
COLOUR_CHOICES: tuple[ColourChoice, ...] = ("auto", "always", "never")


class Style(StrEnum):
    """How a text is shown. The values are parameters of SGR (ECMA-48); nothing is said by a style alone."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


@dataclass(frozen=True)
class Screen:
    """The terminal or pipe on which a table is shown."""

    width: int | None
    """Columns; None for a pipe."""
    colour: bool = False
    """Whether bold, dim and coloured text may be written."""
    unicode: bool = True
    """Whether its encoding has characters beyond ASCII."""

    @classmethod
    def of(cls, stream: TextIO, colour: ColourChoice = "auto") -> Screen:
        """Return the screen of a stream. $COLUMNS is obeyed on terminals, $NO_COLOR (no-color.org) with `auto`."""
        unicode = (stream.encoding or "").lower().replace("-", "").startswith("utf")
        is_terminal = stream.isatty()
        is_wanted = is_terminal and not os.environ.get("NO_COLOR") and (os.environ.get("TERM") or "dumb") != "dumb"
        has_colour = is_wanted if colour == "auto" else colour == "always"
        return cls(max(20, _columns(stream)) if is_terminal else None, has_colour, unicode)

    def styled(self, text: str, style: Style) -> str:
        """Return `text` in a style, where the screen has colours."""
        return f"\033[{style}m{text}\033[0m" if self.colour and text and style else text

    def bold(self, text: str) -> str:
        """Return `text` in bold."""
        return self.styled(text, Style.BOLD)

    def dim(self, text: str) -> str:
        """Return `text` dimmed."""
        return self.styled(text, Style.DIM)

    def cut(self, text: str, width: int) -> str:
        """Return `text` cut to at most `width` columns, with an ellipsis at the end where it is cut."""
        if width_of(text) <= width:
            return text
        ellipsis = "…" if self.unicode else "..."
        return (_start(text, width - len(ellipsis)).rstrip() + ellipsis)[:width]

    def bar(self, part: int, whole: int, width: int) -> str:
        """Return a bar of `width` columns times `part / whole`; at least an eighth of a column where `part` isn't 0."""
        eighths = part * width * 8 // whole if whole > 0 else 0
        if part > 0:
            eighths = max(eighths, 1)
        if not self.unicode:
            return "#" * -(-eighths // 8)
        return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip()


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    stacked: str = "{}"
    """The format of a cell in a stacked row: `{} stars`."""
    right: bool = False
    """Whether cells are aligned to the right, as numbers are."""
    flexible: bool = False
    """Whether cells may be cut where the table doesn't fit."""
    optional: bool = False
    """Whether the column may be left out, before any cell is cut, where the table doesn't fit."""
    below: bool = False
    """Whether cells are shown below their rows, wrapped, where the table doesn't fit with this column."""
    style: Callable[[str], Style] = lambda text: Style.PLAIN
    """Returns the style of a cell, by its text. Cells of the first column are bold where it returns none."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], screen: Screen) -> Iterator[str]:
    """Return the lines of a table, or of stacked rows where it doesn't fit. The first column names the row.

    Cells may hold any text, which is escaped here. Columns whose cells are all empty are left out.
    """
    clean = [[cell_text(cell) for cell in row] for row in rows]
    shown = [i for i in range(len(columns)) if any(row[i] for row in clean)]
    widths = {i: max(width_of(columns[i].title), *(width_of(row[i]) for row in clean)) for i in shown}

    def excess() -> int:
        return sum(widths.values()) + len(_GAP) * (len(widths) - 1) - (screen.width or sys.maxsize)

    below = [i for i in shown if columns[i].below] if excess() > 0 else []
    for i in below:
        del widths[i]
    for i in [i for i in widths if columns[i].optional]:
        if excess() > 0:
            del widths[i]
    for i in [i for i in widths if columns[i].flexible]:
        widths[i] -= min(max(excess(), 0), max(widths[i] - _NARROWEST, 0))
    used = [*widths, *below] if excess() > 0 else [*widths]
    cells = [[row[i] for i in used] for row in clean]
    if excess() > 0:
        return _stacked([columns[i] for i in used], cells, screen)
    notes = [[row[i] for i in below] for row in clean]
    return _aligned([columns[i] for i in used], cells, notes, list(widths.values()), screen)


def _aligned(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    notes: Sequence[Sequence[str]],
    widths: Sequence[int],
    screen: Screen,
) -> Iterator[str]:
    """Return the line of each row, with its `notes` below it."""
    if any(column.title for column in columns):
        titles = _padded([column.title for column in columns], columns, widths, screen)
        yield screen.dim(_GAP.join(titles).rstrip())
    for row, texts in zip(rows, notes, strict=True) if columns else ():
        styles = [column.style(cell) for column, cell in zip(columns, row, strict=True)]
        styles[0] = styles[0] or Style.BOLD
        yield _GAP.join(_padded(row, columns, widths, screen, styles)).rstrip()
        for text in texts:
            yield from _indented(text, screen)


def _padded(
    cells: Sequence[str],
    columns: Sequence[Column],
    widths: Sequence[int],
    screen: Screen,
    styles: Sequence[Style] | None = None,
) -> list[str]:
    padded = []
    for cell, column, width, style in zip(cells, columns, widths, styles or [Style.PLAIN] * len(cells), strict=True):
        text = screen.cut(cell, width)
        space = " " * (width - width_of(text))
        text = screen.styled(text, style)
        padded.append(space + text if column.right else text + space)
    return padded


def _stacked(columns: Sequence[Column], rows: Sequence[Sequence[str]], screen: Screen) -> Iterator[str]:
    """Return the lines of each row as a heading, a line of short cells, and the flexible cells, wrapped."""
    width = screen.width or _DEFAULT_WIDTH
    separator = " · " if screen.unicode else ", "
    for first, *others in rows:
        yield screen.styled(screen.cut(columns[0].stacked.format(first), width), columns[0].style(first) or Style.BOLD)
        facts: list[str] = []
        texts: list[str] = []
        for column, cell in zip(columns[1:], others, strict=True):
            if cell:
                words = column.stacked.format(cell).split()  # a line may end between them
                text = " ".join(screen.styled(word, column.style(cell)) for word in words)
                (texts if column.flexible else facts).append(text)
        for text in (separator.join(facts), *texts):
            yield from _indented(text, screen)


def _indented(text: str, screen: Screen) -> Iterator[str]:
    """Return the lines of a text that belongs to the row above it."""
    return (_GAP + line for line in wrapped(text, (screen.width or _DEFAULT_WIDTH) - len(_GAP)))


def wrapped(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns, broken between words where possible."""
    lines, line = [], ""
    for word in text.split():
        if line and width_of(line) + 1 + width_of(word) <= width:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
        *full, line = folded(word, width)
        lines += full
    return [*lines, line] if line else lines


def folded(text: str, width: int) -> list[str]:
    """Return `text` cut into lines of at most `width` columns, with every character kept; at least one line."""
    lines = []
    while width_of(text) > width and (start := _start(text, width)) != text:
        lines.append(start)
        text = text[len(start) :]
    return [*lines, text]


def _start(text: str, width: int) -> str:
    """Return as much of the start of `text` as fits into `width` columns, but at least one character."""
    for i, character in enumerate(text):
        width -= width_of(character)
        if width < 0:
            return text[: max(i, 1)]
    return text


def cell_text(text: str) -> str:
    """Return `text` as one line with single spaces, and with control characters escaped."""
    return printable(" ".join(text.split()))


@lru_cache(maxsize=4096)
def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width_of(text: str) -> int:
    """Return the number of columns that `text` takes on a terminal (Unicode Standard Annex 11); styles take none."""
    if "\033" in text:
        text = _STYLING.sub("", text)
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _columns(stream: TextIO) -> int:
    text = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,4}", text):
        return int(text)
    with suppress(OSError, ValueError):  # a terminal of unknown size has 0 columns
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH
    return _DEFAULT_WIDTH


def count_text(number: int) -> str:
    """Return a count as people read it: `17.3k`, `9.4B`."""
    value, units = float(number), iter(("", "k", "M", "B"))
    unit = next(units)
    while value >= 999.95 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"
