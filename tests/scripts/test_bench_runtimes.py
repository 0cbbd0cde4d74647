"""The benchmark of the runtimes: what it runs, in which order, and how it reports."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.bench_runtimes import AFTER, WORKLOADS, measure, table
from tests.support.tools import own

RECORDER = """#!/bin/sh
[ "$1 $3" = "--runtime --env" ] || exit 1
echo "$2 $7" | head -1 >>{log}
[ ! -e {fail} ] || exit 1
"""


@pytest.fixture
def directory(place: Path) -> Path:
    """A DIR whose start.sh notes the runtime and the first line of the text."""
    target = place / "dir"
    (target / "rootfs").mkdir(parents=True)
    own(target / "rootfs")
    (place / "log").touch(mode=0o666)
    (place / "log").chmod(0o666)
    (target / "start.sh").write_text(RECORDER.format(log=place / "log", fail=place / "fail"))
    (target / "start.sh").chmod(0o755)
    return target


@pytest.mark.slow
def test_each_round_runs_everything_everywhere_in_turn(directory: Path, place: Path) -> None:
    times = measure(directory, ["userns", "proot"], rounds=3)
    assert {
        (workload, runtime): len(times[workload][runtime]) for workload in times for runtime in times[workload]
    } == {(workload, runtime): 3 for workload in WORKLOADS for runtime in ("userns", "proot")}
    ran = [line for line in (place / "log").read_text().splitlines() if line.split(" ", 1)[1]]
    one_round = []
    for workload, text in WORKLOADS.items():
        for runtime in ("userns", "proot"):
            one_round += [f"{runtime} {text}"] + ([f"{runtime} {AFTER[workload]}"] if workload in AFTER else [])
    assert ran[-4 * len(one_round) :] == one_round * 4  # the first round warms up
    assert sorted(path.name for path in place.iterdir()) == ["dir", "log"]


def test_what_fails_is_not_measured(directory: Path, place: Path) -> None:
    (place / "fail").touch()
    with pytest.raises(subprocess.CalledProcessError):
        measure(directory, ["userns"], rounds=1)


def test_the_table_has_medians_quartiles_and_the_ratio() -> None:
    times = {workload: {"chroot": [1.0, 2.0, 9.0], "proot": [4.0, 6.0, 5.0]} for workload in WORKLOADS}
    title, line, *rows = table(times, ["chroot", "proot"])
    assert title == "| | chroot | proot | proot / chroot |"
    assert line == "|---|---|---|---|"
    assert rows[0] == "| start and end | 2.000 s (1.000-9.000) | 5.000 s (4.000-6.000) | 2.5 |"
    assert len(rows) == len(WORKLOADS)
