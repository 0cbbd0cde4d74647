"""The commands for developers."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import develop
from tests.support.doctor import write_script


def test_wheels_of_fast_are_taken_where_pip_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is compiled for them, and nothing fails without them."""
    write_script(tmp_path / "python", f'echo "$@" >>{tmp_path}/log; case $* in *isal*) exit 1; esac')
    monkeypatch.setattr(develop, "PYTHON", str(tmp_path / "python"))
    develop.install_wheels_of_fast()
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 2
    assert all("--only-binary=:all:" in line for line in log)
    assert "isal >= 1.5" in log[0]
    assert "backports.zstd" in log[1]
    assert capsys.readouterr().out == (
        "develop.py: going on without isal >= 1.5: pip has no wheel of it for this machine\n"
    )
