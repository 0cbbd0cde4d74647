"""Which runtime start.sh takes, and what it says where none will do: here, and for images of other architectures."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.support.containers import SAY, Container, make_scratch, starter
from tests.support.tools import find_program, need, need_root, unavailable


def test_root_gets_chroot_and_users_get_namespaces(container: Container, place: Path) -> None:
    need_root()
    need("proot")
    assert b"unshare -i -u -m -p " in container.output("", "--print", "true", by="chroot")
    assert b"unshare -U -r -i -u -m -p " in container.output("", "--print", "true", by="userns")


@pytest.fixture
def bare_path(place: Path) -> Path:
    """A PATH without any runtime: /usr/sbin, which start.sh adds, has none either."""
    bare = place / "bare"
    bare.mkdir()
    for name in ("env", "uname", "sh", "readlink", "ls"):
        (bare / name).symlink_to(find_program(name) or "")
    return bare


def test_without_a_runtime_one_package_is_named(container: Container, bare_path: Path) -> None:
    env = {"PATH": str(bare_path)}
    done = container.run("", "true", env=env)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"start.sh: neither proot nor user namespaces work here: apt install proot\n"
    env["PREFIX"] = "/data/data/com.termux/files/usr"
    done = container.run("", "--runtime", "proot", "true", env=env)
    assert done.stderr == b"start.sh: proot is missing: pkg install proot\n"


def test_user_namespaces_where_proot_is_missing(container: Container, bare_path: Path) -> None:
    for name in ("unshare", "mount", "mkdir", "mv", "cp", "head", "chroot", "true"):
        (bare_path / name).symlink_to(find_program(name) or "")
    env = {"PATH": str(bare_path)}
    assert b"unshare -U -r -i -u -m -p " in container.output("", "--print", "true", by="userns", env=env)
    assert container.output("", "--cap-add", "ALL", *SAY, "x", by="userns", env=env) == b"x\0"


def test_chroot_is_refused_to_users(container: Container) -> None:
    done = container.run("", "--runtime", "chroot", "true")
    assert (done.returncode, done.stderr) == (125, b"start.sh: chroot needs root: use sudo, or --runtime proot\n")


def test_root_without_capabilities_takes_proot(container: Container) -> None:
    need_root()
    need("setpriv", "proot")
    powerless = ["setpriv", "--bounding-set", "-sys_admin"]
    assert b"/proot " in container.output("", "--print", "true", shell=powerless, by="chroot")


# A / that is no mount, as in a chroot made by hand.
IN_A_CHROOT = """
set -e
mount --make-rprivate /
for name in /*; do
    if [ -L "$name" ]; then cp -Pf "$name" "$1$name"
    elif [ -d "$name" ]; then mkdir -p "$1$name" && mount --rbind "$name" "$1$name"
    fi
done
exec chroot "$@"
"""


def test_in_a_chroot_root_takes_proot(container: Container, place: Path) -> None:
    need_root()
    need("proot", "unshare")
    (place / "host").mkdir()
    inside = ["unshare", "-m", "sh", "-c", IN_A_CHROOT, "sh", str(place / "host")]
    assert b"/proot " in container.output("", "--print", "true", shell=inside, by="chroot")
    done = container.run("", "--runtime", "chroot", "true", shell=inside, by="chroot")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"this is a chroot already: use --runtime proot" in done.stderr


def test_runtime_may_come_from_the_environment_and_the_settings(container: Container) -> None:
    container.set(default_runtime="userns")
    assert b"unshare" in container.output("", "--print", "true", by="userns")
    env = {**starter("userns")["env"], "PROVISION_RUNTIME": "proot"}
    assert b"/proot " in container.output("", "--print", "true", env=env)
    assert b"unshare" in container.output("", "--runtime", "userns", "--print", "true", env=env)


def test_an_init_is_process_1_and_others_are_not(container: Container) -> None:
    (container.rootfs / "sbin").mkdir()
    (container.rootfs / "sbin/init").write_text(
        "#!/bin/sh\ntrap 'exit 42' TERM\necho $$\nwhile :; do sleep 0.02; done\n"
    )
    (container.rootfs / "sbin/init").chmod(0o755)
    for runtime in ("userns", "chroot"):
        with container.running(runtime, "/sbin/init") as process:
            assert process.stdout
            assert process.stdout.readline() == b"1\n"
            process.terminate()
            assert process.wait(60) == 42
        assert container.output(runtime, "sh", "-c", "echo $$") != b"1\n"


# Images for other machines


def arm64_program(status: int) -> bytes:
    """A static arm64 program that ends with `status`."""
    code = struct.pack("<III", 0xD2800000 | status << 5, 0xD2800BA8, 0xD4000001)  # mov x0; mov x8, exit; svc
    base, size = 0x400000, 120 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1" + bytes(9), 2, 183, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000) + code


@pytest.fixture
def foreign(place: Path) -> Container:
    """A container for arm64."""
    if os.uname().machine in ("aarch64", "arm64"):
        unavailable("this machine runs arm64 by itself")
    target = make_scratch(place / "foreign", image_platform="linux/arm64/v8", image_command=("/answer",))
    (target.rootfs / "answer").write_bytes(arm64_program(42))
    (target.rootfs / "answer").chmod(0o755)
    return target


def test_qemu_runs_other_architectures_in_proot(foreign: Container) -> None:
    need("qemu-aarch64-static")
    assert foreign.run("proot").returncode == 42
    if os.geteuid() == 0 and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        assert foreign.run("", by="chroot").returncode == 42


def test_what_to_install_for_another_architecture(foreign: Container, bare_path: Path) -> None:
    (bare_path / "proot").symlink_to(find_program("proot") or "")
    machine = os.uname().machine
    for env, hint in (
        ({}, "apt install proot qemu-user-static"),
        ({"PREFIX": "/data/data/com.termux/files/usr"}, "pkg install proot qemu-user-aarch64"),
    ):
        done = foreign.run("", env={"PATH": str(bare_path), **env})
        assert done.returncode == 125
        assert done.stderr.decode() == f"start.sh: the image is for linux/arm64/v8, this machine is {machine}: {hint}\n"


def test_namespaces_need_binfmt_for_another_architecture(foreign: Container) -> None:
    need("qemu-aarch64-static")
    if Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        unavailable("binfmt is registered here")
    done = foreign.run("userns")
    assert done.returncode == 125
    assert b"the kernel has no binfmt for it: apt install binfmt-support qemu-user-static" in done.stderr


def test_namespaces_use_binfmt_for_another_architecture(foreign: Container) -> None:
    """A user namespace may have a binfmt_misc of its own, since Linux 6.7."""
    need("qemu-aarch64-static")
    magic = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00\\xb7\\x00"
    mask = "\\xff" * 7 + "\\x00" + "\\xff" * 8 + "\\xfe\\xff\\xff\\xff"
    rule = f":qemu-aarch64:M::{magic}:{mask}:{find_program('qemu-aarch64-static')}:F"
    script = 'cd /proc/sys/fs/binfmt_misc && mount -t binfmt_misc none . && printf %s "$0" >../binfmt_misc/register'
    script += ' || exit 99; "$@"'
    outer = ["unshare", "-U", "-r", "-m", "sh", "-c", script, rule]
    done = foreign.run("userns", shell=outer)
    if done.returncode == 99:
        unavailable("this kernel has no binfmt_misc in user namespaces")
    assert done.returncode == 42, done
    assert foreign.run("", shell=outer, by="userns").returncode == 42
