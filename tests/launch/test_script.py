"""The shell parts of start.sh, and how they are joined."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from provisioner.launch.launcher import launcher
from provisioner.launch.script import PARTS, body
from provisioner.resources import read_resource, resource_names
from tests.support.containers import SETTINGS
from tests.support.tools import need

ROOT = Path(__file__).resolve().parent.parent.parent
PART_LINES = 400
FUNCTION_LINES = 60


def functions(part: str) -> dict[str, int]:
    """The functions of a part, and how many lines they have."""
    text = read_resource("scripts/start", f"{part}.sh").decode()
    found = re.finditer(r"^(\w+)\(\) \{\n.*?^\}\n", text, re.MULTILINE | re.DOTALL)
    return {function[1]: function[0].count("\n") for function in found}


def test_every_part_is_joined_once() -> None:
    assert sorted(f"{part}.sh" for part in PARTS) == resource_names("scripts/start", ".sh")


def test_the_body_is_the_parts_as_they_are_and_a_last_line_that_runs_them() -> None:
    expected = b"\n".join(read_resource("scripts/start", f"{part}.sh") for part in PARTS)
    assert body() == expected + b'\nmain "$@"\n'


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_what_it_is_for_and_stays_small(part: str) -> None:
    lines = read_resource("scripts/start", f"{part}.sh").decode().splitlines()
    assert re.match(r"# [A-Za-z]", lines[0])
    assert len(lines) <= PART_LINES
    assert {name: length for name, length in functions(part).items() if length > FUNCTION_LINES} == {}


def test_no_function_is_defined_twice() -> None:
    defined = Counter(name for part in PARTS for name in functions(part))
    assert len(defined) > 90
    assert [name for name, times in defined.items() if times > 1] == []


def test_the_kernels_stat_file_is_parsed_in_one_place() -> None:
    # Shells that replace process 1, or watch beside it, have none of the functions.
    readers = re.findall(rb'(?:<|read_file )"?(/proc/\S*/stat)\b', body())
    assert sorted(readers) == [b"/proc/$1/stat", b"/proc/$guest/stat", b"/proc/self/stat", b"/proc/self/stat"]


def test_the_variables_for_tests_are_documented() -> None:
    variable = re.compile(r"PROVISION_TEST_\w+")
    section = (ROOT / "docs/start-sh.md").read_text().partition("### For tests\n")[2]
    assert set(variable.findall(body().decode())) == set(variable.findall(section))


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_the_parts() -> None:
    need("shellcheck")
    for part in PARTS:
        command = ["shellcheck", "-s", "sh", "--exclude=SC2154,SC2034", "-"]
        text = read_resource("scripts/start", f"{part}.sh")
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert (part, done.stdout.decode(), done.returncode) == (part, "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["body", "whole"])
def test_shellcheck_finds_nothing_in_what_is_joined(what: str) -> None:
    """Where every variable that is read is assigned, and every one that is assigned is read."""
    need("shellcheck")
    script = body() if what == "body" else launcher(SETTINGS)
    done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=script, capture_output=True, check=False)
    assert done.stdout.decode() == ""
    assert done.returncode == 0
