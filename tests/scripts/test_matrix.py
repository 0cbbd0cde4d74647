"""The matrix of programs and runtimes: no cell may say more than what was seen, and each "no" has its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import matrix as command
from scripts.matrix_columns import COLUMNS, versions_here
from scripts.matrix_reasons import REASONS, explain
from scripts.matrix_report import BEGIN, END, matrix, short, write_matrix
from scripts.matrix_rows import Row
from scripts.matrix_run import Cell, as_json, from_json, judge
from scripts.matrix_systems import DAEMONS
from tests.support.tools import CHECKOUT

ROW = Row("program", "echo", proof=("first", "yes-$TOKEN"))


@pytest.mark.parametrize(
    ("status", "output", "error", "reason"),
    [
        (0, "first\nyes-abc\n", "", ""),
        (0, "yes-abc\nfirst\n", "a warning\n", ""),
        (0, "first\nyes-abd\n", "", "the output doesn't prove it: yes-abd"),
        (0, "first yes-abc\n", "", "the output doesn't prove it: first yes-abc"),
        (0, "", "", "the output doesn't prove it: it is empty"),
        (1, "first\nyes-abc\n", "it broke\n\n", "status 1; it broke"),
        (255, "", "", "status 255"),
        (None, "first\nyes-abc\n", "", "it doesn't end within 60 s"),
        (None, "at work\n", "", "it doesn't end within 60 s; it says: at work"),
    ],
)
def test_a_cell_is_a_yes_only_if_its_output_proves_it(status: int | None, output: str, error: str, reason: str) -> None:
    assert judge(ROW, status, output, error, "abc") == reason


def test_a_refusal_needs_the_words_as_well_as_the_status() -> None:
    row = Row("refused", "", words=("/init",), proof=(), status=125, error=r"start\.sh: .*no init")
    assert judge(row, 125, "", "start.sh: there is no init here\n", "") == ""
    assert judge(row, 1, "", "start.sh: there is no init here\n", "").startswith("status 1 in place of 125")
    assert judge(row, 125, "", "something else\n", "") == "status 125; something else"


def test_every_row_can_fail_and_names_are_unique() -> None:
    for row in command.ROWS:
        assert row.proof or row.error, row.name
        assert all("$TOKEN" not in line or "yes-" in line for line in row.proof)
    names = [(row.name, system) for row in command.ROWS for system in row.systems]
    assert len(names) == len(set(names))
    assert len(DAEMONS.split()) == len(set(DAEMONS.split())) == 40


def test_every_reason_is_about_rows_and_columns_that_exist() -> None:
    for reason in REASONS:
        assert any(re.match(reason.row, row.name) for row in command.ROWS), reason
        assert any(re.match(reason.column, column.name) for column in COLUMNS), reason
    assert explain("ping", "userns", "status 1")
    assert explain("ping", "chroot", "status 1") == ""


def test_a_part_is_chosen_by_row_column_or_system() -> None:
    row = next(row for row in command.ROWS if row.name.startswith("git "))
    column = next(column for column in COLUMNS if column.name == "userns")
    for only, expected in {
        "git": True,
        "userns": True,
        "debian/userns": True,
        "git/userns": True,
        "userns-many": False,
        "gi": False,
        "git/chroot": False,
        "alpine/userns": False,
    }.items():
        assert command.is_named(only, column, row, "debian") is expected, only


def cell(row: str, column: str, reason: str = "") -> Cell:
    return Cell(row, "debian", column, not reason, reason, 0.1)


def test_the_tables_show_what_was_seen_with_versions_and_one_reason_a_line(tmp_path: Path) -> None:
    rows = [
        Row("ping", "", systems=("debian",), version_of=("iputils-ping",)),
        Row("odd", "", systems=("debian",)),
    ]
    columns = [column for column in COLUMNS if column.name in ("proot", "userns", "chroot")]
    cells = [
        cell("ping", "proot", "status 1"),
        cell("ping", "userns", "status 1"),
        cell("ping", "chroot"),
        cell("odd", "chroot", "status 3; it `broke`"),
    ]
    versions = {"debian": {"iputils-ping": "3:20221126-1"}, "columns": {"host": "5.1.0", "kernel": "6.1"}}
    text = matrix(from_json(as_json(cells)), rows, columns, versions)
    lines = text.splitlines()
    table = lines.index("| Debian | proot 5.1.0 with the filter | userns, one id | chroot |")
    assert lines[table + 2 : table + 4] == [
        "| ping (20221126) | no (1) | no (1) | yes |",
        "| odd | - | - | no (2) |",
    ]
    assert f"1. ping: {explain('ping', 'proot', 'status 1')}" in lines
    assert "2. odd: `status 3; it 'broke'`" in lines
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_matrix(page, text)
    assert page.read_text() == f"before\n{BEGIN}\n\n{text}\n{END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="no marks"):
        write_matrix(page, text)
    assert page.read_text() == "no marks\n"


def test_each_no_of_the_page_has_its_reason() -> None:
    page = (CHECKOUT / "docs/runtimes.md").read_text()
    part = page.partition(BEGIN)[2].partition(END)[0]
    numbers = {int(number) for number in re.findall(r"no \((\d+)\)", part)}
    reasons = re.findall(r"^(\d+)\. .+: .+", part, re.MULTILINE)
    assert [int(number) for number in reasons] == list(range(1, len(reasons) + 1))
    assert numbers == set(range(1, len(reasons) + 1))


@pytest.mark.parametrize(
    ("version", "shown"),
    [("1:2.39.5-0+deb12u2", "2.39.5"), ("18.20.4+dfsg-1~deb12u1", "18.20.4"), ("3.23.6-r0", "3.23.6")],
)
def test_versions_are_those_of_the_programs(version: str, shown: str) -> None:
    assert short(version) == shown


def test_the_versions_of_this_machine_are_named() -> None:
    found = versions_here()
    assert re.fullmatch(r"\d+\.\d+.*", found["kernel"])
    assert found["machine"]
