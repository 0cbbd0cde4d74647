"""docs/security.md: each "yes" of its table is held by tests that exist and run in that runtime."""

from __future__ import annotations

import importlib
import re
from functools import cache

import pytest

from tests.support.containers import RUNTIMES
from tests.support.tools import CHECKOUT

PAGE = (CHECKOUT / "docs/security.md").read_text()
HERE = CHECKOUT / "tests/attacks_host"


@cache
def rows() -> dict[str, dict[str, str]]:
    """Return the table: threat -> runtime -> cell."""
    lines = re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)
    header, *body = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    assert header == ["threat", *RUNTIMES]
    return {threat: dict(zip(RUNTIMES, cells, strict=True)) for threat, *cells in body}


@cache
def named_tests() -> dict[str, list[str]]:
    """Return the tests that the list names for each threat. `the same` stands for those of the entry before."""
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for threat, text in re.findall(r"^- \*\*([^*]+)\*\*, (.+(?:\n  .+)*)", PAGE, re.MULTILINE):
        if "`test_" in text:
            names = [name for name in re.findall(r"`(test_\w+)`", text) if name]
            found[threat] = last = (last if text.startswith("the same") else []) + names
    return found


@cache
def protecting_tests() -> dict[str, tuple[str, ...]]:
    """Return the runtimes that each test of this directory holds for."""
    found: dict[str, tuple[str, ...]] = {}
    for path in HERE.glob("test_*.py"):
        module = importlib.import_module(f"tests.attacks_host.{path.stem}")
        found |= {name: test.protects for name, test in vars(module).items() if hasattr(test, "protects")}
    return found


def test_proot_is_said_to_be_no_boundary_before_anything_else() -> None:
    assert PAGE.startswith("# Security\n\n**proot is not a security boundary.**")


def test_the_table_has_the_threats_that_matter() -> None:
    threats = "read host files, write host files, other processes, network, devices, terminal, kernel surface"
    assert list(rows())[:7] == threats.split(", ")


@pytest.mark.parametrize("threat", rows())
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_cell_is_yes_by_something_that_a_test_holds_or_no(threat: str, runtime: str) -> None:
    cell = rows()[threat][runtime]
    assert cell == "no" or re.match(r"yes, by \w", cell)
    holding = [name for name in named_tests().get(threat, []) if runtime in protecting_tests()[name]]
    assert bool(holding) == (cell != "no")


def test_all_that_are_named_exist_where_they_are_said_to_be() -> None:
    files: dict[str, set[str]] = {}
    for name in re.findall(r"`(test_\w+(?:\.py)?)`", PAGE.split("## The tests for each yes")[1]):
        if name.endswith(".py"):
            current = files.setdefault(name, set())
            assert (HERE / name).exists(), name
        else:
            current.add(name)
    for file, names in files.items():
        assert names <= set(re.findall(r"def (test_\w+)", (HERE / file).read_text())), file


def test_all_that_protect_are_named() -> None:
    named = {name for names in named_tests().values() for name in names}
    assert set(protecting_tests()) - named == set()


@pytest.mark.parametrize("link", re.findall(r"\]\(([\w.-]+\.md)(?:#([\w-]+))?\)", PAGE))
def test_links_lead_somewhere(link: tuple[str, str]) -> None:
    page, anchor = link
    headings = re.findall(r"^#+ (.+)$", (CHECKOUT / "docs" / page).read_text(), re.MULTILINE)
    assert not anchor or anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
