"""The benchmark of start.sh measures what it says; the limit itself is `make bench-start`'s, on a machine at rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import bench_start
from tests.support.containers import need_user_namespaces
from tests.support.tools import need


def test_each_runtime_is_measured_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    need("busybox", "proot")
    need_user_namespaces(by_root=False)
    bench_start.main(["2"])
    out, err = capfd.readouterr()
    assert err == ""
    number = r" +(-?[\d.]+) ms"
    lines = [
        re.fullmatch(
            rf"(\w+) +start.sh{number}, by hand{number}: it costs{number}, or{number} by the minima|\w+ +not here", line
        )
        for line in out.splitlines()
    ]
    assert len(lines) == len(bench_start.LIMITS)
    for line in lines:
        assert line
        if line[1]:
            assert float(line[2]) - float(line[3]) == pytest.approx(float(line[4]), abs=0.11)


def test_a_limit_that_is_passed_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need("busybox", "proot")
    start = bench_start.make_start(tmp_path / "container")
    monkeypatch.setitem(bench_start.LIMITS, "proot", -1000.0)
    assert bench_start.compare("proot", start, 1) == 1
    monkeypatch.setitem(bench_start.LIMITS, "proot", 10000.0)
    assert bench_start.compare("proot", start, 1) == 0
