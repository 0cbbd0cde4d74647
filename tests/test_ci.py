"""`.ci/run` installs what the tests need, also on a machine where nobody has installed more by hand."""

from __future__ import annotations

import ast
import re

from tests.support.tools import CHECKOUT, PACKAGES

# Packages that every Debian has: Essential, see Debian Policy 3.8.
ESSENTIAL = {"bash", "coreutils", "dash", "dpkg", "findutils", "hostname", "libc-bin", "tar", "util-linux"}


def needed_programs() -> set[str]:
    """Return the programs that tests name as literal arguments of `need`."""
    return {
        argument.value
        for path in (CHECKOUT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def installed_packages() -> set[str]:
    """Return the packages of the list in `.ci/run`."""
    found = re.search(r"^packages=\(\n(.*?)^\)", (CHECKOUT / ".ci/run").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return {word for line in found[1].splitlines() for word in line.partition("#")[0].split()}


def test_ci_installs_the_programs_that_tests_need() -> None:
    programs = needed_programs()
    assert {"proot", "bash", "skopeo"} <= programs
    packages = {PACKAGES.get(program, program) for program in programs}
    assert packages - installed_packages() - ESSENTIAL == set()
