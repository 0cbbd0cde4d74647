"""The benchmark of start.sh measures what it says; the limit itself is `make bench-start`'s, on a machine at rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import bench_start
from tests.support.tools import need


def test_each_runtime_is_measured_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    need("busybox", "proot")
    bench_start.main(["2"])
    out, err = capfd.readouterr()
    assert err == ""
    number = r" +(-?[\d.]+) ms"
    lines = [
        re.fullmatch(rf"(\w+) +start.sh{number}, by hand{number}: it costs{number}|\w+ +not here", line)
        for line in out.splitlines()
    ]
    assert len(lines) == 2
    for line in lines:
        assert line
        if line[1]:
            assert float(line[2]) - float(line[3]) == pytest.approx(float(line[4]), abs=0.11)


def test_a_limit_that_is_passed_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need("busybox", "proot")
    start = bench_start.make_start(tmp_path / "container")
    monkeypatch.setattr(bench_start, "LIMIT", -1000.0)
    assert bench_start.compare("proot", start, 1) == 1
    monkeypatch.setattr(bench_start, "LIMIT", 10000.0)
    assert bench_start.compare("proot", start, 1) == 0
