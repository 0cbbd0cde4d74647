"""Flags of open(2), and descriptors that are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import (
    ANY_FILE,
    DIRECTORY,
    DIRECTORY_LOCATION,
    EXISTING_FILE,
    LOCATION,
    NEW_FILE,
    NEW_READABLE_FILE,
    closing_descriptor,
    closing_on_error,
)


@pytest.mark.parametrize("flags", [DIRECTORY, DIRECTORY_LOCATION, EXISTING_FILE, ANY_FILE, NEW_FILE, NEW_READABLE_FILE])
def test_no_symlink_is_followed_and_no_program_inherits_it(tmp_path: Path, flags: int) -> None:
    name = "directory" if flags in (DIRECTORY, DIRECTORY_LOCATION) else "file"
    (tmp_path / "directory").mkdir()
    if flags in (EXISTING_FILE, ANY_FILE):
        (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(name)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels|File exists"):
        os.open(tmp_path / "link", flags, 0o600)
    with closing_descriptor(os.open(tmp_path / name, flags, 0o600)) as opened:
        assert not os.get_inheritable(opened)


@pytest.mark.parametrize("flags", [NEW_FILE, NEW_READABLE_FILE])
def test_a_new_file_takes_the_place_of_none(tmp_path: Path, flags: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        os.open(tmp_path / "file", flags, 0o600)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for flags in (ANY_FILE, LOCATION):
        os.close(os.open(tmp_path / "fifo", flags))


def test_a_location_is_that_of_the_symlink_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with closing_descriptor(os.open(tmp_path / "link", LOCATION)) as opened:
        assert os.path.samestat(os.fstat(opened), (tmp_path / "link").lstat())


def test_a_descriptor_is_closed_after_an_error(tmp_path: Path) -> None:
    directory = os.open(tmp_path, DIRECTORY)
    with pytest.raises(KeyError), closing_descriptor(directory):
        raise KeyError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(directory)


def test_a_descriptor_that_is_returned_is_closed_after_an_error_alone(tmp_path: Path) -> None:
    with closing_on_error(os.open(tmp_path, DIRECTORY)) as directory:
        pass
    os.fstat(directory)
    with pytest.raises(KeyError), closing_on_error(directory):
        raise KeyError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(directory)
