"""The markers that `make check-fast` selects by, which are found in the code of tests, and what pytest warns of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find, strategies

from tests.support import pulls
from tests.support.markers import markers_of_code
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import need, need_root


def calls_need_root() -> None:
    need_root()


def calls_a_helper() -> None:
    calls_need_root()


def serves_in_a_helper_of_another_module() -> None:
    pulls.pull_at_once(1, Path())


class Server:
    def start(self) -> ScriptedRegistry:
        return ScriptedRegistry()


def serves_in_a_method() -> None:
    [Server() for _ in range(1)]


def starts_chroot() -> list[str]:
    return ["start.sh", "--runtime", "chroot"]


def needs_nothing() -> None:
    need("sh")


@pytest.mark.parametrize(
    ("code", "markers"),
    [
        (calls_need_root, {"needs_root"}),
        (calls_a_helper, {"needs_root"}),
        (serves_in_a_helper_of_another_module, {"needs_server"}),
        (serves_in_a_method, {"needs_server"}),
        (starts_chroot, {"chroot"}),
        (needs_nothing, set()),
    ],
)
def test_code_shows_what_a_test_needs(code: Callable[[], object], markers: set[str]) -> None:
    assert markers_of_code(code) == markers


def test_fixtures_show_it_too(registry: ScriptedRegistry, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("needs_server")
    assert not request.node.get_closest_marker("needs_root")


def test_a_strategy_whose_file_was_edited_meanwhile(tmp_path: Path) -> None:
    """Somebody edits tests while they run: hypothesis takes other lines for the source of a function."""
    path = tmp_path / "strategies.py"
    path.write_text("edited = ()\n")
    names: dict[str, Any] = {"st": strategies}
    exec(compile("values = st.recursive(st.none(), lambda inner: st.lists(inner))", path, "exec"), names)
    assert find(names["values"], lambda value: value is None) is None
