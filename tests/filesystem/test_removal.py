from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import empty_directory, names_in, remove_tree
from tests.support.disks import disk
from tests.support.tools import as_user, need, need_root, own, run, user_python
from tests.support.trees import make_deep

SCRIPT = """
import os, sys
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
remove_tree(os.open(sys.argv[1], DIRECTORY), os.fsencode(sys.argv[2]))
"""


def remove(path: Path) -> None:
    parent = os.open(path.parent, DIRECTORY)
    try:
        remove_tree(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def removed_by_user(path: Path) -> subprocess.CompletedProcess[str]:
    python, found_by = user_python()
    command = [python, "-c", SCRIPT, str(path.parent), path.name]
    return subprocess.run(command, capture_output=True, text=True, check=False, **as_user(**found_by))


def test_all_that_is_in_it_goes_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "a/link").symlink_to(outside)
    (tree / "link").symlink_to("../outside")
    os.mkfifo(tree / "a/fifo")
    remove(tree)
    assert sorted(tmp_path.rglob("*")) == [outside, outside / "kept"]


@pytest.mark.slow
def test_depth_has_no_limit(tmp_path: Path) -> None:
    make_deep(tmp_path)
    remove(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_many_directories_go_while_their_names_are_read(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"tree/name-of-some-length-{number}/sub").mkdir(parents=True)
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o300, 0o400, 0o500, 0o600])
def test_a_user_can_remove_what_is_closed(place: Path, mode: int) -> None:
    run("mkdir", "-p", place / "tree/a/b/c", **as_user())
    run("touch", place / "tree/a/file", place / "tree/a/b/c/file", **as_user())
    for path in ("tree/a/b/c", "tree/a/b", "tree/a", "tree"):
        (place / path).chmod(mode)
    done = removed_by_user(place / "tree")
    assert done.returncode == 0, done.stderr
    assert list(place.iterdir()) == []


def test_what_belongs_to_others_is_an_error(place: Path) -> None:
    need_root()
    (place / "tree/theirs/x").mkdir(parents=True)
    own(place / "tree")
    done = removed_by_user(place / "tree")
    assert "PermissionError" in done.stderr
    assert (place / "tree").is_dir()


@pytest.mark.parametrize("where", ["tree/mounted", "tree/a/mounted", "tree/a/b/mounted"])
def test_what_is_mounted_below_is_left_alone(place: Path, where: str) -> None:
    need_root()
    need("unshare", "mount")
    precious = place / "precious"
    precious.mkdir()
    (precious / "data").write_text("dear")
    (place / where).mkdir(parents=True)
    python, found_by = user_python()
    script = 'mount --bind "$1" "$2" && shift 2 && "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(precious), str(place / where)]
    remover = [python, "-c", SCRIPT, str(place), "tree"]
    env = {**os.environ, **found_by}
    done = subprocess.run([*command, *remover], capture_output=True, text=True, check=False, env=env)
    assert "Device or resource busy" in done.stderr
    assert (precious / "data").read_text() == "dear"


def test_a_subvolume_is_left_alone(tmp_path: Path) -> None:
    """It is no mount, and could be moved."""
    with disk(tmp_path, "btrfs") as mounted:
        need("btrfs")
        (mounted.path / "tree/a").mkdir(parents=True)
        run("btrfs", "subvolume", "create", mounted.path / "tree/a/sub")
        (mounted.path / "tree/a/sub/data").write_text("dear")
        with pytest.raises(OSError, match="another file system"):
            remove(mounted.path / "tree")
        assert [path.read_text() for path in (mounted.path / "tree").rglob("data")] == ["dear"]


def test_a_link_is_not_removed_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotADirectoryError):
        remove(tmp_path / "link")
    assert (tmp_path / "real").is_dir()


def test_names_are_bytes(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    directory = os.open(tmp_path, DIRECTORY)
    assert list(names_in(directory)) == [b"\xff"]
    os.close(directory)


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
def test_what_came_after_the_directory_was_opened_goes_too(tmp_path: Path, file_system: str) -> None:
    with disk(tmp_path, file_system) as mounted:
        folder = mounted.path / "folder"
        folder.mkdir()
        with closing_descriptor(os.open(folder, DIRECTORY)) as opened:
            assert list(names_in(opened)) == []
            (folder / "sub").mkdir()
            (folder / "sub/file").touch()
            (folder / "file").touch()
            assert sorted(names_in(opened)) == [b"file", b"sub"]
            empty_directory(opened)
        assert os.listdir(folder) == []
