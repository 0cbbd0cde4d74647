"""Flags of open(2), and descriptors that are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, NEW_FILE, closing_descriptor


@pytest.mark.parametrize("flags", [DIRECTORY, EXISTING_FILE, NEW_FILE])
def test_no_symlink_is_followed_and_no_program_inherits_it(tmp_path: Path, flags: int) -> None:
    name = "directory" if flags == DIRECTORY else "file"
    (tmp_path / "directory").mkdir()
    if flags == EXISTING_FILE:
        (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(name)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels|File exists"):
        os.open(tmp_path / "link", flags, 0o600)
    with closing_descriptor(os.open(tmp_path / name, flags, 0o600)) as opened:
        assert not os.get_inheritable(opened)


def test_a_new_file_takes_the_place_of_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        os.open(tmp_path / "file", NEW_FILE, 0o600)


def test_a_descriptor_is_closed_after_an_error(tmp_path: Path) -> None:
    directory = os.open(tmp_path, DIRECTORY)
    with pytest.raises(KeyError), closing_descriptor(directory):
        raise KeyError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(directory)
