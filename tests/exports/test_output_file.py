"""A file that appears when it is complete: interrupted, left by a killed run, written by two at once, special."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provisioner.archives.compressing import compression_for
from provisioner.errors import MachineError, TargetExists, UsageError
from provisioner.exports.output_file import check_not_below, output_file
from tests.support.tools import need_root, own


def write(path: Path, data: bytes) -> None:
    with output_file(str(path)) as output:
        os.write(output, data)


@pytest.mark.parametrize("before", [None, b"old"])
def test_it_appears_whole_and_for_its_owner_alone(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with output_file(str(path)) as output:
        os.write(output, b"new")
        assert (path.read_bytes() if path.exists() else None) == before
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MachineError("x")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException | type[BaseException]) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises((KeyboardInterrupt, OSError, MachineError)), output_file(str(tmp_path / "file")):
        raise error
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_run_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.provision-part").write_bytes(b"much longer than the new content")
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    with output_file(str(tmp_path / "file")) as output:
        with pytest.raises(TargetExists, match="another run writes"):
            write(tmp_path / "file", b"second")
        os.write(output, b"first")
    assert (tmp_path / "file").read_bytes() == b"first"


@pytest.mark.parametrize("what", ["link", "hard link", "directory", "fifo", "theirs"])
def test_what_somebody_has_put_there_is_not_written_to(tmp_path: Path, what: str) -> None:
    dear, part = tmp_path / "dear", tmp_path / ".file.provision-part"
    dear.write_bytes(b"dear")
    if what == "link":
        part.symlink_to("dear")
    elif what == "hard link":
        part.hardlink_to(dear)
    elif what == "directory":
        part.mkdir()
    elif what == "fifo":
        os.mkfifo(part)
    else:
        need_root()
        part.touch()
        own(part)
    with pytest.raises((TargetExists, MachineError)):
        write(tmp_path / "file", b"new")
    assert dear.read_bytes() == b"dear"
    assert not (tmp_path / "file").exists()


def test_a_symlink_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_to(tmp_path: Path) -> None:
    write(Path("/dev/null"), b"new")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", [".", "none/file", "file/below"])
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((UsageError, MachineError)):
        write(tmp_path / name, b"new")


def test_a_file_in_the_directory_that_goes_into_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    for name in ("dir/file", "link/file", "link/../dir/none/file"):
        with pytest.raises(UsageError, match="would be in the directory"):
            check_not_below(str(tmp_path / name), tmp_path / "dir")
    check_not_below(str(tmp_path / "directory"), tmp_path / "dir")
    check_not_below("-", tmp_path)


@pytest.mark.parametrize("name", ["c.zip", "c.tar.bz2", "C.TAR.LZ4", "c.7z"])
def test_a_name_that_would_lie_about_the_archive_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="can't be written") as raised:
        compression_for(name)
    assert ".tar.gz" in raised.value.hint
    assert compression_for("c.tar") == compression_for("-") == compression_for("archive") == ""
