"""What is on the disk when the power is cut, and disks that fail: the whole tool on real file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders, tools
from tests.support.disks import FAILURES, disk
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment
from tests.support.trees import tree_of

pytestmark = pytest.mark.slow
FILES = 300
IMAGE = builders.image(
    builders.layer(
        ("etc", None),
        ("etc/os-release", b"ID=tiny\n"),
        ("usr", None),
        *((f"usr/{number}", builders.incompressible(2000, number)) for number in range(FILES)),
    )
)
LARGE = builders.image(builders.layer(("large", builders.incompressible(60 << 20)), compression=""))


@pytest.fixture(scope="module")
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("x", IMAGE)
        served.push("large", LARGE)
        yield served


def provision(registry: ScriptedRegistry, *words: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    image, *rest = words
    reference = f"{registry.host}/{image}"
    return tools.provision(reference, "--platform=linux/amd64", *rest, cache=cache, env=clean_environment())


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
def test_a_power_cut_after_success_takes_nothing(registry: ScriptedRegistry, tmp_path: Path, file_system: str) -> None:
    with disk(tmp_path, file_system) as mounted:
        target = mounted.path / "new/parents/container"
        done = provision(registry, "x", target, cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        expected = tree_of(target)
        mounted.cut_power()
        assert tree_of(target) == expected
        assert len(list((target / "rootfs/usr").iterdir())) == FILES


def test_a_power_cut_while_a_directory_is_replaced_leaves_one(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with disk(tmp_path) as mounted:
        target = mounted.path / "container"
        for _ in range(2):
            done = provision(registry, "x", target, "--force", cache=tmp_path / "cache")
            assert done.returncode == 0, done.stderr
        expected = tree_of(target)
        mounted.cut_power()
        assert tree_of(target) == expected


def test_without_sync_a_power_cut_takes_files(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """So the other tests look at what they should."""
    with disk(tmp_path) as mounted:
        target = mounted.path / "container"
        done = provision(registry, "x", target, "--no-sync", cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        mounted.commit_journal()
        mounted.cut_power()
        assert [path.stat().st_size for path in (target / "rootfs/usr").iterdir()] == [0] * FILES
        assert (target / "start.sh").read_bytes() == b""


def test_a_cache_that_lost_its_content_is_filled_again(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Blobs and documents are renamed without waiting for the disk: they are verified whenever they are read."""
    with disk(tmp_path) as mounted:
        done = provision(registry, "x", tmp_path / "first", cache=mounted.path / "cache")
        assert done.returncode == 0, done.stderr
        mounted.commit_journal()
        mounted.cut_power()
        cached = [path for path in (mounted.path / "cache").rglob("*") if path.is_file()]
        assert 0 in {path.stat().st_size for path in cached}
        offline = provision(registry, "x", tmp_path / "second", "--offline", cache=mounted.path / "cache")
        assert offline.returncode == 5, offline.stderr
        assert not (tmp_path / "second").exists()
        again = provision(registry, "x", tmp_path / "second", cache=mounted.path / "cache")
        assert again.returncode == 0, again.stderr
        assert tree_of(tmp_path / "second/rootfs/usr") == tree_of(tmp_path / "first/rootfs/usr")


def test_a_disk_that_fails_is_an_error_and_nothing_is_left(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with disk(tmp_path, "ext2", room="60m") as mounted:
        target = mounted.path / "new/container"
        done = provision(registry, "large", target, cache=tmp_path / "cache")
        *_, message, hint = done.stderr.splitlines()
        assert message.startswith(f"provision: write {target} to the disk: ")
        assert message.endswith(FAILURES)
        assert hint.strip()
        assert done.returncode == 7
        assert sorted(os.listdir(mounted.path)) == ["lost+found"]


def test_a_disk_that_can_no_longer_be_written_is_an_error(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Not even the staging directory can be removed; the next run does that."""
    with disk(tmp_path, room="40m") as mounted:
        target = mounted.path / "container"
        done = provision(registry, "large", target, cache=tmp_path / "cache")
        *_, message, hint = done.stderr.splitlines()
        assert message.startswith("provision: ")
        assert hint.strip()
        assert done.returncode == 7
        assert not target.exists()


def test_a_replaced_directory_survives_a_disk_that_fails(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with disk(tmp_path, "ext2", room="60m") as mounted:
        target = mounted.path / "container"
        assert provision(registry, "x", target, cache=tmp_path / "cache").returncode == 0
        before = tree_of(target)
        assert provision(registry, "large", target, "--force", cache=tmp_path / "cache").returncode == 7
        assert tree_of(target) == before
        assert staging_below(mounted.path) == []
