"""Registries that fail in each way we know: every pull ends in the right bytes or in the right error."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.digest import CHUNK

from . import pulls
from .faults import CASES, Case, check
from .scripted_registry import PIECE


def test_the_table_is_long_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_registry_that_fails(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_runs_that_are_killed_at_random_moments(tmp_path: Path) -> None:
    """The run that is left alone then completes; a kill costs what was in one buffer of each blob, at most."""
    figures = pulls.killed(15, tmp_path)
    assert figures.kills == 15
    assert figures.most_lost <= CHUNK + PIECE
    assert figures.sent >= figures.size


def test_eight_processes_download_each_blob_once(tmp_path: Path) -> None:
    pulls.at_once(8, tmp_path)
