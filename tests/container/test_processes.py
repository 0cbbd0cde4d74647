"""What runs from a directory, found for real guests in proot, chroot and user namespaces."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from provisioner.container.processes import find_processes
from tests.support.containers import need_user_namespaces
from tests.support.guests import SCRIPT, guest
from tests.support.tools import as_user, find_program, need, need_root, own
from tests.support.waiting import wait_until


@pytest.fixture
def directory(place: Path) -> Path:
    """DIR/rootfs with a static shell and the programs in it."""
    need("busybox")
    target = place / "dir"
    for folder in ("bin", "proc", "tmp", "dev", "sys"):
        (target / "rootfs" / folder).mkdir(parents=True)
    shutil.copy(find_program("busybox") or "", target / "rootfs/bin/busybox")
    (target / "rootfs/dev/null").touch()
    for name in ("sh", "sleep"):
        (target / "rootfs/bin" / name).symlink_to("busybox")
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            own(path)
    return target


def command_lines(directory: Path, least: int) -> list[bytes]:
    """Wait until at least so many processes run from the directory, and return their command lines."""
    deadline = time.monotonic() + 60
    while True:
        pids = find_processes([directory])[directory]
        lines = []
        for pid in pids:
            with suppress(OSError):  # it has just ended
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        if len(lines) >= least or time.monotonic() > deadline:
            return lines
        time.sleep(0.02)


@pytest.mark.parametrize("option", ["-r", "--rootfs="])
def test_guests_of_proot(option: str, directory: Path, place: Path) -> None:
    need("proot")
    rootfs = directory / "rootfs"
    words = [f"{option}{rootfs}"] if option.endswith("=") else [option, "dir/rootfs"]  # also relative
    assert find_processes([directory]) == {directory: []}
    with guest("proot", *words, "-w", "/", "/bin/sh", "-c", SCRIPT, **{**as_user(), "cwd": place}):
        lines = command_lines(directory, 4)
    assert sum(b"proot" in line.split(b"\0")[0] for line in lines) == 1
    assert sum(b"sleep" in line for line in lines) >= 2
    wait_until(lambda: not find_processes([directory])[directory])


def test_guests_in_chroot(directory: Path) -> None:
    need_root()
    with guest("unshare", "-m", "-p", "-f", "chroot", directory / "rootfs", "/bin/sh", "-c", SCRIPT):
        lines = command_lines(directory, 3)
        moved = directory.rename(directory.with_name("moved"))
        assert len(find_processes([moved])[moved]) == len(lines)
    assert sum(b"sleep" in line for line in lines) >= 2
    assert not any(b"unshare" in line for line in lines)
    wait_until(lambda: not find_processes([moved])[moved])


def test_a_program_from_elsewhere_whose_root_is_the_rootfs(directory: Path) -> None:
    need_root()
    code = f"import os, time; os.chroot({str(directory / 'rootfs')!r}); print('begun', flush=True); time.sleep(60)"
    with guest(sys.executable, "-c", code) as process:
        assert find_processes([directory])[directory] == [process.pid]


def test_guests_in_user_namespaces(directory: Path) -> None:
    need("unshare", "chroot")
    need_user_namespaces(by_root=False)
    chroot = find_program("chroot") or ""  # Debian keeps it off the PATH of users
    enter: list[str | Path] = ["unshare", "-U", "-r", "-m", "-p", "-f", "--kill-child", chroot, directory / "rootfs"]
    with guest(*enter, "/bin/sh", "-c", SCRIPT, **as_user()):
        assert len(command_lines(directory, 3)) >= 3
    wait_until(lambda: not find_processes([directory])[directory])


def test_a_program_of_the_rootfs_started_by_hand(directory: Path) -> None:
    with guest(directory / "rootfs/bin/busybox", "sh", "-c", "echo begun; sleep 60; true"):
        assert command_lines(directory, 1)


def test_two_directories_are_distinguished(directory: Path, place: Path) -> None:
    need("proot")
    other = place / "other"
    shutil.copytree(directory, other, symlinks=True)
    with guest("proot", "-r", other / "rootfs", "-w", "/", "/bin/sh", "-c", SCRIPT):
        command_lines(other, 4)
        pids = find_processes([directory, other])
        assert pids[directory] == []
        assert len(pids[other]) >= 4


def test_a_process_outside_that_works_in_the_rootfs_is_no_guest(directory: Path) -> None:
    with guest("sh", "-c", f"echo begun; sleep 60; : {directory}/rootfs", cwd=directory / "rootfs"):
        assert find_processes([directory])[directory] == []


def test_what_is_missing_runs_nothing(place: Path) -> None:
    assert find_processes([place / "none"]) == {place / "none": []}
    assert find_processes([]) == {}
