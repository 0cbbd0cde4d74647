"""What start.sh asks of proot, Termux's and Debian's, and says where proot can't work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from provisioner.launch.bpf import Abi, Rule, program, refuse
from tests.support import libseccomp
from tests.support.containers import ENVIRONMENT, Container, starter
from tests.support.seccomp_filters import install
from tests.support.termux import need_termux_proot, with_proot, with_similar_proot
from tests.support.tools import need, open_terminal


def test_of_termux_s_proot_all_that_helps_is_used(container: Container, place: Path) -> None:
    termux_proot = with_similar_proot(place)
    done = container.run("proot", "sh", "-c", "exit 4", env=termux_proot)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr == b""
    words = (place / "words").read_text().splitlines()
    assert [word for word in words if word in ("--link2symlink", "--sysvipc", "--kill-on-exit", "-p", "-L")] == [
        *("--kill-on-exit", "--sysvipc", "-L", "-p")
    ], "hard links work here"
    assert container.run("proot", "true", env={**starter("proot")["env"]}).stderr == b"", "Debian's moves no ports"


def test_ports_that_are_moved_are_told_at_a_terminal(container: Container, place: Path) -> None:
    termux_proot = with_similar_proot(place)
    container.set(image_ports=("80/tcp", "53/udp", "1024/tcp", "odd"), image_entrypoint=("true",))
    leader, follower = open_terminal()
    with os.fdopen(leader, "rb") as terminal:
        done = container.run("proot", env=termux_proot, stderr=follower)
        os.close(follower)
        assert done.returncode == 0
        line = terminal.readline().decode()
    assert line.endswith("network: 80/tcp (outside 2080), 53/udp (outside 2053), 1024/tcp, odd\r\n")


def test_proot_gets_its_variables_from_the_caller(scratch: Container) -> None:
    need("proot")
    env = {**starter("proot")["env"], "PROOT_NO_SECCOMP": "1"}
    assert b"PROOT_NO_SECCOMP=1" in scratch.words("proot", *ENVIRONMENT, env=env)


def test_proot_in_proot_is_refused(container: Container) -> None:
    need("proot")
    done = container.run("", "true", shell=["proot"])
    assert done.returncode == 125
    assert done.stderr.decode().splitlines()[-1] == (
        "start.sh: this is inside of proot already, and proot can't be nested: leave it first (exit)"
    )


def test_a_proot_that_cannot_work_here_is_explained(container: Container) -> None:
    (container.rootfs / "bin/true").unlink()
    (container.rootfs / "bin/true").symlink_to("busybox")
    arch = libseccomp.native_arch()
    call = libseccomp.number("ptrace", arch)
    assert call is not None
    abi = Abi(arch, {"ptrace": call})
    missing = program([Rule(refuse(errno.ENOSYS), ("ptrace",))], [abi])
    done = container.run("proot", "true", preexec_fn=lambda: install(missing))
    assert done.returncode in (1, 126, 127, 255)
    assert done.stderr.decode().splitlines()[-1] == (
        "start.sh: proot fails here, with seccomp and without: run provision doctor"
    )
    assert container.run("proot", "false").stderr == b""


def test_that_seccomp_fails_is_said_where_it_does(container: Container, place: Path) -> None:
    """An error of another filter comes before proot's trace of the call, but not before its other way to see it."""
    env = with_proot(place, need_termux_proot())
    arch = libseccomp.native_arch()
    names = ("getuid", "geteuid")
    abi = Abi(arch, {name: number for name in names if (number := libseccomp.number(name, arch)) is not None})
    refusing = program([Rule(refuse(errno.EPERM), names)], [abi])
    command = ("sh", "-c", "kill -SYS $$")
    done = container.run("proot", *command, env=env, preexec_fn=lambda: install(refusing))
    assert done.stderr.decode() == (
        "start.sh: proot's use of seccomp fails here: set PROOT_NO_SECCOMP=1 in the environment\n"
    )
    slow = {**env, "PROOT_NO_SECCOMP": "1"}
    done = container.run("proot", *command, env=slow, preexec_fn=lambda: install(refusing))
    assert (done.returncode, done.stderr) == (159, b"")
    done = container.run("proot", *command, env=env)
    assert (done.returncode, done.stderr) == (159, b"")


@pytest.mark.parametrize("guest", ["exit 1", "exit 126", "exit 159", "exit 255", "kill -SEGV $$", "kill -TERM $$"])
def test_a_failure_of_the_guest_is_not_blamed_on_seccomp(container: Container, guest: str) -> None:
    need("proot")
    env = {**starter("proot")["env"], "ANDROID_ROOT": "/system"}
    done = container.run("proot", "sh", "-c", guest, env=env)
    assert done.returncode != 0
    assert b"SECCOMP" not in done.stderr


def test_a_failure_runs_no_other_program_of_the_image(container: Container) -> None:
    (container.rootfs / "bin/true").unlink()
    (container.rootfs / "bin/true").write_text("#!/bin/sh\necho >/tmp/canary\n")
    (container.rootfs / "bin/true").chmod(0o755)
    assert container.run("proot", "false").returncode == 1
    assert not (container.rootfs / "tmp/canary").exists()


def test_termux_s_directories_need_termux(container: Container) -> None:
    done = container.run("proot", "--termux", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"start.sh: --termux works in Termux only")
