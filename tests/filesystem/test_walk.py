from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from provisioner.filesystem.walk import NAMES_IN_MEMORY, walk
from tests.support.disks import tmpfs
from tests.support.tools import CHECKOUT, need, need_root, run
from tests.support.trees import make_deep


def listed(root: Path, names_in_memory: int = NAMES_IN_MEMORY) -> list[str]:
    """Return the paths in the order of the walk, directories with a slash."""
    above: list[str] = []
    paths = []
    for found in walk(root, names_in_memory):
        if found is None:
            above.pop()
            continue
        path = "/".join([*above, os.fsdecode(found.name)])
        paths.append(path + "/" * found.is_directory)
        assert os.stat(found.name, dir_fd=found.directory, follow_symlinks=False) == found.stat
        if found.is_directory:
            above.append(path.rpartition("/")[2])
    assert above == []
    return paths


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_names_are_sorted_and_symlinks_are_not_followed(tmp_path: Path) -> None:
    for path in ("b/z", "b/a", "c", "a/b/c", "e", os.fsdecode(b"\xff/x")):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "b.x").touch()
    (tmp_path / "d").symlink_to("b")
    assert listed(tmp_path) == [
        "./",
        *("./a/", "./a/b/", "./a/b/c/", "./b/", "./b/a/", "./b/z/", "./b.x", "./c/", "./d", "./e/"),
        *(os.fsdecode(b"./\xff/"), os.fsdecode(b"./\xff/x/")),
    ]


def test_names_are_sorted_in_every_directory(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "sub"):
        directory.mkdir(exist_ok=True)
        for number in range(0, 1000, 7):
            (directory / str(number * 389 % 1000)).touch()
    names = [found.name for found in walk(tmp_path / "sub") if found][1:]
    assert names == sorted(names)
    assert len(names) == 143
    names = [found.name for found in walk(tmp_path) if found]
    assert names[1:144] == names[-143:] == sorted(names[-143:])


@pytest.mark.parametrize("most", [1, 2, 7, 143])
def test_a_directory_of_many_names_is_read_several_times(tmp_path: Path, most: int) -> None:
    for number in range(143):
        (tmp_path / f"{number % 3}/{number}").mkdir(parents=True)
        (tmp_path / f"{number % 3}/{number}.file").touch()
    whole = listed(tmp_path)
    assert len(whole) == 1 + 3 + 2 * 143
    assert listed(tmp_path, most) == whole


MILLION = """
from pathlib import Path
from provisioner.filesystem.walk import NAMES_IN_MEMORY, first_names

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

names = (b"a-name-of-some-length-%d" % (number * 7919 % 10**6) for number in range(10**6))
before = peak()
assert len(first_names(names, NAMES_IN_MEMORY)) == NAMES_IN_MEMORY
print(peak() - before)
"""


@pytest.mark.slow
def test_of_a_million_names_a_few_are_in_memory() -> None:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, env=env)
    assert int(done.stdout) < 40 << 10


def test_the_root_may_be_behind_a_symlink_in_its_path_but_is_none(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotADirectoryError):
        next(walk(tmp_path / "link"))


@pytest.mark.slow
def test_depth_has_no_limit_and_one_directory_is_open(tmp_path: Path) -> None:
    make_deep(tmp_path)
    before, most, count = open_files(), 0, 0
    try:
        for found in walk(tmp_path):
            most = max(most, open_files())
            count += found is not None
        after = open_files()
    finally:
        here = os.open(tmp_path, DIRECTORY)
        remove_tree(here, b"d")  # pytest can't
        os.close(here)
    assert count == 1501
    assert most - before <= 1
    assert after <= before  # fewer where threads of other tests have ended meanwhile


def test_what_goes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    seen = []
    for found in walk(tmp_path):
        seen.append(found and found.name)
        (tmp_path / "b").unlink(missing_ok=True)
    assert seen == [b".", b"a", b"c", None]


def test_a_directory_that_is_moved_away_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "secret").touch()
    names: list[bytes] = []
    with pytest.raises(FileNotFoundError):
        moving(tmp_path, b"b", names)
    assert b"secret" not in names


def test_a_directory_that_is_moved_while_one_is_in_it_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/c").touch()
    (tmp_path / "secret").touch()
    names: list[bytes] = []
    with pytest.raises(OSError, match="Stale"):
        moving(tmp_path, b"c", names)
    assert b"secret" not in names


def moving(base: Path, when: bytes, names: list[bytes]) -> None:
    """Walk, and move a directory out of the tree when the name `when` is reached."""
    for found in walk(base / "root"):
        if found:
            names.append(found.name)
            if found.name == when:
                (base / "root/a/b").rename(base / "b")


def test_what_is_mounted_is_not_entered(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "a/proc").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    with tmpfs(tmp_path / "a/proc"):
        (tmp_path / "a/proc/file").touch()
        assert listed(tmp_path) == ["./", "./a/", "./a/proc/", "./b/"]


def test_states_are_those_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    found = list(walk(tmp_path))[1]
    assert found is not None
    assert stat.S_ISLNK(found.stat.st_mode)


def test_a_bind_mount_of_the_same_file_system_is_known(tmp_path: Path) -> None:
    """No device number tells it from the tree; nor does its name, which others have as well."""
    need_root()
    need("mount", "umount")
    points = [tmp_path / "a\n b/mnt", tmp_path / "file"]
    for name in ("a\n b/mnt", "c/mnt", "host"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "below").touch()
    points[1].touch()
    mounted: list[Path] = []
    try:
        for source, point in zip((tmp_path / "host", tmp_path / "host/below"), points, strict=True):
            run("mount", "--bind", source, point)
            mounted.append(point)
        found = [file for file in walk(tmp_path) if file]
        assert [file.name for file in found if file.is_mounted] == [b"mnt", b"file"]
        assert [file.name for file in found].count(b"below") == 2
        assert not any(file.is_mounted for file in walk(points[0]) if file)
    finally:
        for point in mounted:
            run("umount", point)
