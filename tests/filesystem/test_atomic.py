"""Atomic replacement of small files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provisioner.exports.output_file import output_file
from provisioner.filesystem.atomic import replace_file


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    replace_file(path, b"new", mode)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["file"]


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    (tmp_path / "kept elsewhere").write_bytes(b"old")
    (tmp_path / "link").symlink_to("kept elsewhere")
    replace_file(tmp_path / "link", b"new", 0o600)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept elsewhere").read_bytes() == b"new"


def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"new", 0o600)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "名" * 85, "é" * 127 + "e"])
def test_a_name_may_have_all_the_bytes_that_names_have(tmp_path: Path, name: str) -> None:
    replace_file(tmp_path / name, b"new", 0o600)
    with output_file(str(tmp_path / name)) as output:
        os.write(output, b"newer")
    assert (tmp_path / name).read_bytes() == b"newer"
    assert os.listdir(tmp_path) == [name]
