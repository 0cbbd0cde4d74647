"""Hostile archives (attacks.py), each applied as root, as a user and under fakeroot: nothing outside is touched."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.attack_runner import look, whole
from tests.support.attacks import Attack, attacks
from tests.support.leftovers import clean_place
from tests.support.tools import CHECKOUT, as_user, clean_environment, need, need_root, own, user_python

NAMES = [attack.name for attack in attacks("/outside")]


@pytest.fixture(
    scope="module",
    params=[f"{role} {way}".strip() for way in ("", "apart", "shared") for role in ("root", "user", "fakeroot")],
)
def outcomes(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Attack], dict[str, Any]]]:
    """Who applied the attacks, the attacks by their names, and their outcomes."""
    role, _, way = str(request.param).partition(" ")
    if role == "root":
        need_root()
    if role == "fakeroot":
        need("fakeroot")
    with clean_place() as place:
        # The unprivileged user need not be able to read the checkout.
        shutil.copytree(CHECKOUT / "tests/support", place / "copies/tests/support")
        arena = own(place / "copies") / "arena"
        arena.mkdir()
        own(arena)
        python, found_by = user_python()
        path = f"{place}/copies:{found_by['PYTHONPATH']}"
        environment = {**found_by, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        options = {"env": clean_environment(**environment)} if role == "root" else as_user(**environment)
        command = ["fakeroot", "--"] if role == "fakeroot" else []
        done = subprocess.run(
            [*command, python, "-m", "tests.support.attack_runner", arena, way],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr
        yield role, {attack.name: attack for attack in attacks(f"{arena}/outside")}, json.loads(done.stdout)


def test_every_attack_has_a_name_of_its_own_and_one_end() -> None:
    assert len(NAMES) == len(set(NAMES))
    ends = {attack.name: (attack.tree is not None, attack.refused, attack.stopped) for attack in attacks("/outside")}
    assert [name for name, end in ends.items() if sum(map(bool, end)) != 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_is_touched(outcomes: tuple[str, dict[str, Attack], dict[str, Any]], name: str) -> None:
    _, expected, found = outcomes
    attack, outcome = expected[name], found[name]
    assert outcome["safe"]
    if attack.refused or attack.stopped:
        pattern = f"^refused: .*({attack.refused})" if attack.refused else f"^stopped: .*({attack.stopped})"
        assert re.search(pattern, outcome["error"], re.DOTALL), outcome["error"]
        assert outcome["error"].isprintable()
    else:
        tree = whole(attack.tree or {})
        assert (outcome["error"], outcome["tree"]) == ("", tree)


@pytest.mark.slow
def test_many_entries_take_little_memory() -> None:
    """The second 100,000 take less than 60 bytes each."""
    with clean_place() as place:
        command = [sys.executable, "-m", "tests.support.attack_runner", str(place), "many"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    names, half, whole = json.loads(done.stdout)
    assert names == 1100
    assert whole < 60_000
    assert whole - half < 6000


def test_the_canary_notices(tmp_path: Path) -> None:
    """The check itself: a change of content, mode, time or names outside is seen."""
    canary = tmp_path / "canary"
    canary.write_bytes(b"sings")
    seen = [look(tmp_path)]
    canary.chmod(0o600)
    seen.append(look(tmp_path))
    canary.write_bytes(b"sung!")
    seen.append(look(tmp_path))
    (tmp_path / "other").hardlink_to(canary)
    seen.append(look(tmp_path))
    assert all(before != after for before, after in itertools.pairwise(seen))
