"""docs/compatibility.md: each row of its tables is held by tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.tools import CHECKOUT

PAGE = (CHECKOUT / "docs/compatibility.md").read_text()
HEADER = ("what", "accepted, and who else does", "held by")
ROWS = [tuple(line.split(" | ")) for line in re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)]


@cache
def existing_tests() -> frozenset[str]:
    """Return the names of all tests."""
    names = set()
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names.add(node.name)
    return frozenset(names)


def test_the_page_has_its_tables() -> None:
    assert ROWS.count(HEADER) == 2
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", [row for row in ROWS if row != HEADER], ids=lambda row: row[0][:60])
def test_each_row_is_held_by_tests(row: tuple[str, ...]) -> None:
    _, _, held = row
    named = re.findall(r"`(test_\w+)`", held)
    assert named
    assert not set(named) - existing_tests()
