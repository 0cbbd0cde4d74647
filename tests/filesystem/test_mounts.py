"""Mount points as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

from provisioner.filesystem.mounts import Mount, mount_of, mount_points_in, read_mounts
from tests.support.disks import tmpfs
from tests.support.tools import run


def test_the_root_directory_is_on_a_mount() -> None:
    mount = mount_of(Path("/"))
    assert mount is None or mount.point == "/"  # there is none in a chroot
    assert mount_of(Path("/proc/self")) == Mount("/proc", "proc", "proc")
    assert Mount("/proc", "proc", "proc") in read_mounts()


def test_mount_points_with_odd_names_are_known(tmp_path: Path) -> None:
    odd = tmp_path / "a b\tc\\040"
    with tmpfs(odd):
        assert mount_points_in(tmp_path) == [str(odd)]
        assert mount_of(odd / "below") == Mount(str(odd), "tmpfs", "tmpfs")
    assert mount_points_in(tmp_path) == []


def test_only_the_last_mount_at_a_point_is_seen(tmp_path: Path) -> None:
    with tmpfs(tmp_path):
        run("mount", "-t", "ramfs", "ramfs", tmp_path)
        try:
            assert mount_points_in(tmp_path) == [str(tmp_path)] * 2
            assert mount_of(tmp_path) == Mount(str(tmp_path), "ramfs", "ramfs")
        finally:
            run("umount", tmp_path)
