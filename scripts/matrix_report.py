"""Writes the matrix as tables into a page of the documentation, with versions and the reason of each "no"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.matrix_columns import Column
from scripts.matrix_reasons import explain
from scripts.matrix_rows import Row
from scripts.matrix_run import Cell

BEGIN = "<!-- matrix: from here to the end mark, make matrix writes this page -->"
END = "<!-- end of the matrix -->"

TABLES = {"Debian": ("debian", "debian-small"), "Alpine": ("alpine",)}
"""The tables, with the systems whose rows each shows."""

WIDTH = 118


def write_matrix(page: Path, text: str) -> None:
    """Replace the text between the marks of a page. Raise ValueError if it has no marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} has no marks for the matrix: {BEGIN}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def matrix(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    columns: Sequence[Column],
    versions: Mapping[str, Mapping[str, str]],
) -> str:
    """Return the tables and the list of reasons. `versions` has those of each system's packages, and of `columns`."""
    reasons: dict[str, list[str]] = {}
    seen = {(cell.row, cell.system, cell.column): cell for cell in cells}
    parts = [about(versions["columns"])]
    for name, systems in TABLES.items():
        shown = [(row, system) for row in rows for system in systems if system in row.systems]
        titles = [column.title.format(versions["columns"].get(column.proot, "")) for column in columns]
        lines = [f"| {system_title(name, versions.get(systems[0], {}))} | {' | '.join(titles)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for row, system in shown:
            found = [seen.get((row.name, system, column.name)) for column in columns]
            answers = [answer(cell, reasons) for cell in found]
            lines.append(f"| {row_title(row, versions.get(system, {}))} | {' | '.join(answers)} |")
        parts.append("\n".join(lines))
    parts.append("\n".join(reason_lines(reasons)))
    return "\n\n".join(part for part in parts if part) + "\n"


def about(versions: Mapping[str, str]) -> str:
    """Return the paragraph above the tables."""
    named = {name: versions.get(name, "?") for name in ("kernel", "machine", "util-linux")}
    text = (
        "Seen on Linux {kernel}, {machine}, util-linux {util-linux}. Each cell is one run: `yes` where its output"
        " proves that the program works, `no` with the number of the reason below, `-` where it could not be tried."
        " proot and user namespaces were started by an ordinary user, chroot by root. Termux's proot was started where"
        " hard links are refused, as on Android."
    )
    return wrap(text.format_map(named))


def answer(cell: Cell | None, reasons: dict[str, list[str]]) -> str:
    """Return the text of a cell, and note the reason of a "no" in `reasons`, with the rows that it is for."""
    if cell is None:
        return "-"
    if cell.works:
        return "yes"
    text = explain(cell.row, cell.column, cell.reason) or f"`{cell.reason.replace('`', chr(39))}`"
    rows = reasons.setdefault(text, [])
    if cell.row not in rows:
        rows.append(cell.row)
    return f"no ({list(reasons).index(text) + 1})"


def reason_lines(reasons: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the numbered list of reasons."""
    return [f"{number}. {'; '.join(rows)}: {text}" for number, (text, rows) in enumerate(reasons.items(), 1)]


def system_title(name: str, versions: Mapping[str, str]) -> str:
    """Return the title of a table: the system and its release."""
    # Debian's base-files has the number of the release and one of its own.
    release = short(versions.get("base-files", "")).partition(".")[0] or short(versions.get("alpine-release", ""))
    return f"{name} {release}".strip()


def row_title(row: Row, versions: Mapping[str, str]) -> str:
    """Return a row's name with the version of its program."""
    found = next((versions[package] for package in row.version_of if package in versions), "")
    return f"{row.name} ({short(found)})" if found else row.name


def short(version: str) -> str:
    """Return the upstream part of a package's version."""
    return re.split(r"[-+~_]", version.rpartition(":")[2])[0]


def wrap(text: str) -> str:
    """Return a paragraph in lines that fit the page."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
