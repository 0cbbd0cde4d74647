"""What start.sh's chroot gives to root, and keeps from it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.containers import Container, make_container, starter
from tests.support.mounts import mounts_below, read_mountinfo
from tests.support.tools import by_sudo, clean_environment, find_program, need

USUAL = 0x00000000A00425FB
"""The capabilities of a container in docker without CAP_MKNOD, as the kernel writes them."""


@pytest.fixture
def container(place: Path) -> Container:
    starter("chroot")
    return make_container(place / "container")


def capabilities(container: Container, *options: str) -> dict[str, int]:
    output = container.output("chroot", *options, "busybox", "grep", "^Cap", "/proc/self/status").decode()
    return {name.rstrip(":"): int(value, 16) for name, value in (line.split() for line in output.splitlines())}


def own_bounding_set() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd:")]
    return int(line.split()[1], 16)


def test_root_has_the_capabilities_that_containers_usually_have(container: Container) -> None:
    need("setpriv")
    expected = USUAL & own_bounding_set()
    found = capabilities(container)
    assert (found["CapEff"], found["CapPrm"], found["CapBnd"]) == (expected, expected, expected)
    assert (found["CapInh"], found["CapAmb"]) == (0, 0)
    assert container.run("chroot", "busybox", "mount", "-t", "tmpfs", "none", "/tmp").returncode != 0


def test_a_privileged_one_has_all(container: Container) -> None:
    done = container.run("chroot", "--privileged", "busybox", "grep", "^CapEff", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) == own_bounding_set()
    assert container.run("chroot", "--privileged", "busybox", "mount", "-t", "tmpfs", "none", "/tmp").returncode == 0
    assert mounts_below(container.directory) == []


def test_run_is_in_memory_with_what_the_image_has_there(container: Container) -> None:
    daemon = container.rootfs / "run/daemon"
    daemon.mkdir(parents=True)
    os.chown(daemon, 70, 71)
    (container.rootfs / "run/.hidden").write_text("x")
    guest = (
        "busybox stat -c %u:%g /run/daemon; cat /run/.hidden; echo; touch /run/new; busybox df /run | busybox tail -n 1"
    )
    output = container.output("chroot", "sh", "-c", guest).decode().split()
    assert output[:3] == ["70:71", "x", "tmpfs"]
    assert sorted(os.listdir(container.rootfs / "run")) == [".hidden", "daemon"]


def test_what_a_guest_removes_from_run_while_it_is_copied_stays_removed(container: Container, place: Path) -> None:
    for name in ("first/below", "gone"):
        (container.rootfs / "run" / name).mkdir(parents=True)
    tar = place / "tar"
    tar.write_text("""#!/bin/sh
/usr/bin/tar "$@"
case $PWD in */run/first) rmdir ../gone 2>/dev/null || true ;; esac
""")
    tar.chmod(0o755)
    env = {**starter("chroot")["env"], "PATH": f"{place}:{os.environ['PATH']}"}
    assert container.run("chroot", "true", env=env).stderr == b""
    assert not (container.rootfs / "run/gone").exists()


def test_run_is_copied_as_far_as_it_is_small(container: Container) -> None:
    """An image decides how much is there, and a file without blocks is as long as it says."""
    run = container.rootfs / "run"
    (run / "lock/deeper").mkdir(parents=True)
    (run / "many").mkdir()
    for number in range(3000):
        (run / f"many/{number}").symlink_to("x")
    (run / "large").touch()
    os.truncate(run / "large", 200 << 20)
    done = container.run("chroot", "sh", "-c", "cd /run; busybox find . -type d; busybox ls many | wc -l; [ -e large ]")
    assert done.returncode == 1
    *directories, count = done.stdout.decode().split()
    assert (sorted(directories), count) == ([".", "./lock", "./lock/deeper", "./many"], "2048")
    assert done.stderr.startswith(b"start.sh: the image's /run is copied only in part")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(("count", "found"), [(200, "inside"), (300, "")])
def test_directories_of_run_are_copied_as_far_as_they_are_few(container: Container, count: int, found: str) -> None:
    for number in range(count):
        (container.rootfs / f"run/{number}").mkdir(parents=True)
    (container.rootfs / "run/last/inside").mkdir(parents=True)
    done = container.run("chroot", "busybox", "ls", "/run/last")
    assert (done.returncode, done.stdout.decode().strip()) == (0, found)
    assert done.stderr.startswith(b"start.sh: the image's /run is copied only in part") == (not found)


def test_all_devices_are_there_when_asked_for(container: Container) -> None:
    guest = "busybox ls /dev; echo y >/dev/shm/only-inside"
    few = container.output("chroot", "sh", "-c", guest).decode().split()
    before = set(os.listdir("/dev"))
    all_of_them = container.output("chroot", "--dev=host", "sh", "-c", guest).decode().split()
    after = set(os.listdir("/dev"))  # other tests make loop devices
    assert before & after <= set(all_of_them) <= before | after
    assert len(few) < len(all_of_them)
    assert not Path("/dev/shm/only-inside").exists()
    assert mounts_below(container.directory) == []


def test_without_namespaces_nothing_is_mounted(container: Container) -> None:
    # In a mount namespace of this test, where other tests mount nothing. The kernel may take their mounts away.
    watch = """
        before=$(cat /proc/self/mountinfo)
        "$@"
        echo "status $?"
        grep -vxF "$before" /proc/self/mountinfo
    """
    guest = "echo ready; cat /proc/self/mountinfo; [ -c /dev/null ] && exit 7"
    words = ("--no-namespace", "--workdir", "/made", "sh", "-c", guest)
    done = container.run("", *words, by="chroot", shell=["unshare", "--mount", "sh", "-c", watch, "sh"])
    assert done.stdout == b"ready\nstatus 7\n"
    assert b"unshare" not in container.output("", "--no-namespace", "--print", "true", by="chroot")
    with container.running(
        "chroot", "--no-namespace", "sh", "-c", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.02; done"
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 41


def test_without_namespaces_nothing_is_bound(container: Container) -> None:
    done = container.run("", "--no-namespace", "--bind", "/etc:/x", "true", by="chroot")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"--no-namespace mounts nothing" in done.stderr


def test_where_unshare_is_missing_the_way_out_is_named(container: Container, place: Path) -> None:
    bare = place / "bare"
    bare.mkdir()
    for name in ["env", "uname", "sh", "readlink", "ls", "mount", "chroot", "mkdir", "cp", "setpriv", "head", "true"]:
        (bare / name).symlink_to(find_program(name) or "")
    env = {"PATH": str(bare), "PROVISION_TEST_SBIN": "", **by_sudo()}
    done = container.run("chroot", "true", env=env)
    assert done.returncode == 125
    assert done.stderr.decode() == (
        "start.sh: chroot needs unshare, mount and root's capabilities (else use --runtime proot, or --no-namespace):"
        " apt install util-linux\n"
    )
    assert container.output("", "--no-namespace", "id", "-u", by="chroot", env=env) == b"0\n"


def test_users_get_androids_network_groups_there(container: Container) -> None:
    env = clean_environment(ANDROID_ROOT="/system")
    output = container.output("chroot", "--user", "joe", "id", "-G", env=env).split()
    assert {b"3003", b"3004", b"3005", b"29", b"44"} <= set(output)
    assert container.output("chroot", "id", "-G", env=env) == b"0 4\n"  # its own, and none of Android's
    assert b"3003" not in container.output("chroot", "--user", "joe", "id", "-G")


def test_setuid_programs_work_on_android_s_data(container: Container, place: Path) -> None:
    (place / "data").mkdir()
    script = """
        mount -t tmpfs -o nosuid,nodev tmpfs "$1/data" && cp -a "$1/container" "$1/data/" &&
        "$1/data/container/start.sh" --runtime chroot cat /proc/self/mountinfo
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(place)]
    env = clean_environment(ANDROID_ROOT="/system")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (options,) = [mount.options for mount in read_mountinfo(done.stdout.encode()) if mount.point == Path("/")]
    assert options.isdisjoint({"nosuid", "noexec"})
    assert "nodev" in options
