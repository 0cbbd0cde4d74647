"""File systems that lack something: permissions, links, devices, space."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disks import tmpfs, unmount
from tests.support.doctor import checks_of, doctor, states_of
from tests.support.jail import PREFIX, Jail
from tests.support.tools import as_user, find_program, need, need_root, run


def test_where_python_has_os_link_the_kernel_s_refusal_is_reported(phone: Jail) -> None:
    # A Python from elsewhere has os.link: without the file that makes this one look like Termux's.
    command = ["python3", "-m", "provisioner", "doctor", "--json", "--offline"]
    paths = f"{PREFIX}/opt/provision:{PREFIX}/opt/provision/packages"
    found = checks_of(phone.run(["env", f"PYTHONPATH={paths}", *command], allow=["tmp"]))
    assert found["hard links"]["detail"].startswith("Permission denied")


def test_a_file_system_mounted_noexec_cannot_start_anything(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "noexec"):
        done = doctor("--json", tmp_path)
        found = checks_of(done)
    assert done.returncode == 7
    assert found["execution"]["state"] == "no"
    assert "mounted noexec" in found["execution"]["detail"]
    assert f"mount -o remount,exec {tmp_path}" in found["execution"]["fix"]
    assert found["file system"]["detail"] == f"tmpfs at {tmp_path}"


def test_devices_that_cannot_be_opened(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "nodev"):
        check = checks_of(doctor("--json", tmp_path))["devices"]
    assert (check["state"], "not opened" in check["detail"]) == ("no", True)


@pytest.mark.parametrize("options", ["size=4m", "nr_inodes=200"])
def test_too_little_space(tmp_path: Path, options: str) -> None:
    with tmpfs(tmp_path, options):
        done = doctor(tmp_path)
    assert done.returncode == 7
    assert "no  space: " in done.stdout
    assert "; fix: free some, or choose a directory elsewhere" in done.stdout
    assert done.stdout.splitlines()[-1] == f"provision can't work in {tmp_path}: space"


def test_a_full_file_system(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "size=64k"):
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "full").write_bytes(bytes(1 << 20))
        done = doctor("--json", tmp_path)
        assert os.listdir(tmp_path) == ["full"]
    assert done.returncode == 7
    assert states_of(done)["space"] == "no"


def test_a_file_system_that_cannot_be_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "ro"):
        done = doctor("--json", tmp_path)
    found = checks_of(done)
    assert done.returncode == 7
    assert "Read-only file system" in found["directory"]["detail"]
    assert "symlinks" not in found


def test_a_directory_that_is_closed_to_this_user(tmp_path: Path) -> None:
    need_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = doctor("--json", closed / "new/dir", **as_user())
    assert done.returncode == 7
    assert "Permission denied" in checks_of(done)["directory"]["detail"]


def test_a_file_system_without_links_modes_and_owners(tmp_path: Path) -> None:
    need("losetup", "mkfs.exfat", "mount.exfat-fuse")
    need_root()
    disk, place = tmp_path / "disk", tmp_path / "place"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(2**28)
    run(find_program("mkfs.exfat") or "", disk)
    device = run("losetup", "--find", "--show", disk).strip()
    try:
        run(find_program("mount.exfat-fuse") or "", "-o", "fmask=0133,dmask=0022", device, place)
        try:
            done = doctor("--json", place)
        finally:
            unmount(place)
    finally:
        run("losetup", "--detach", device)
    found = checks_of(done)
    assert done.returncode == 7
    assert [found[name]["state"] for name in ("symlinks", "hard links", "devices")] == ["no"] * 3
    assert found["execution"]["detail"].startswith("files can't be made executable")
