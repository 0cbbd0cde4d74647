"""The programs and modules that provision itself uses."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from provisioner.doctor import tools
from provisioner.doctor.check import Site, State
from provisioner.doctor.tools import check_gzip, check_libmagic, check_python, check_zstd
from tests.support.doctor import checks_of, doctor, path_before, write_script


def test_a_fakeroot_that_pretends_nothing(tmp_path: Path) -> None:
    write_script(tmp_path / "fakeroot", "echo 1000")
    env = path_before(tmp_path)
    check = checks_of(doctor("--json", tmp_path, env=env))["fakeroot"]
    assert (check["state"], check["detail"]) == ("no", "fails: 1000")


def test_what_this_python_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(Path("/"), None)
    whole = check_python(site)
    assert whole.state == State.OK
    assert platform.python_version() in whole.detail
    monkeypatch.delattr(os, "link")
    assert "without os.link" in check_python(site).detail


def test_a_libmagic_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magic", None)
    finding = check_libmagic(Site(Path("/"), None))
    assert finding.state == State.NO
    assert finding.detail.startswith("can't be loaded (")


def test_zstd_by_its_program_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_zstd(Site(Path("/"), None)).state == State.NO
    write_script(tmp_path / "zstd", "")
    assert check_zstd(Site(Path("/"), None)).detail == f"by {tmp_path}/zstd"


def test_what_isal_would_bring_is_said_where_it_has_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(Path("/"), None)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tools, "has_android_kernel", lambda: False)
    monkeypatch.setattr(sys, "maxsize", 2**63 - 1)
    finding = check_gzip(site)
    assert (finding.state, finding.fix) == (State.NO, f"{sys.executable} -m pip install isal")
    assert "three quarters" in finding.detail
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)  # a userland of 32 bits
    assert check_gzip(site).state == State.OK
    monkeypatch.setattr(sys, "maxsize", 2**63 - 1)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert check_gzip(site).state == State.OK
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert check_gzip(site).state == State.NO
    monkeypatch.setattr(tools, "has_android_kernel", lambda: True)
    assert check_gzip(site).state == State.OK
