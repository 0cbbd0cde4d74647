"""The filter for proot 5.1.0: real calls in a real guest, and the tables for machines that aren't here."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.image.platform import Platform
from provisioner.launch.bpf import ALLOW, SUCCESS, refuse
from provisioner.launch.proot_filter import _ARCHES, _abis, proot_filter
from tests.support import path_calls
from tests.support.containers import Container, hand_over, starter
from tests.support.libseccomp import number
from tests.support.seccomp_filters import answer_of
from tests.support.tools import need, unavailable

pytestmark = pytest.mark.slow

MISSING = refuse(errno.ENOSYS)
FILTER = proot_filter(Platform("linux", "amd64"))
# What takes a path and came after the table of proot 5.1.0, and io_uring, as libseccomp calls them.
NEWER = [
    *("statx", "execveat", "renameat2", "open_tree", "move_mount", "fsopen", "fspick", "openat2", "faccessat2"),
    *("mount_setattr", "bpf", "io_uring_setup", "io_uring_enter", "io_uring_register", "quotactl_fd"),
    *("utimensat_time64", "landlock_add_rule", "kexec_file_load"),
]
OLDER = ["fanotify_mark", "fanotify_init", "quotactl"]
NEEDED = [
    "getrandom",
    "memfd_create",
    "rseq",
    "membarrier",
    "copy_file_range",
    "close_range",
    "clock_gettime64",
    "clone3",
]


@pytest.mark.parametrize("arch", _ARCHES, ids=_ARCHES.get)
def test_the_numbers_are_those_of_libseccomp(arch: int) -> None:
    (abi,) = [abi for abi in _abis() if abi.arch == arch]
    known = {name: number(name, arch) for name in abi.numbers}
    assert {name: found for name, found in known.items() if found is not None} == {
        name: abi.numbers[name] for name, found in known.items() if found is not None
    }
    assert len([found for found in known.values() if found is not None]) > 20


@pytest.mark.parametrize("arch", _ARCHES, ids=_ARCHES.get)
def test_what_each_machine_is_answered(arch: int) -> None:
    for name in [*NEWER, *OLDER]:
        if (call := number(name, arch)) is not None:
            assert answer_of(FILTER, call, arch) == MISSING, name
    for name in NEEDED:
        if (call := number(name, arch)) is not None:
            assert answer_of(FILTER, call, arch) == ALLOW, name
    for name in ("openat", "execve", "clone", "ptrace", "kcmp", "exit_group", "chown", "rename", "mount"):
        if (call := number(name, arch)) is not None:
            assert answer_of(FILTER, call, arch) == ALLOW, name
    for call in range(470, 1000):  # not there yet
        assert answer_of(FILTER, call, arch) == MISSING, call
    if _ARCHES[arch] != "arm":  # which has private calls
        for call in (0x40000000, 0x400001FF, 0xFFFFFFFE):  # x32; what proot voids
            assert answer_of(FILTER, call, arch) == MISSING, call


def test_arm_s_own_calls_are_allowed() -> None:
    arm = 0x40000028
    for call in (0xF0001, 0xF0002, 0xF0005):  # breakpoint, cacheflush, set_tls
        assert answer_of(FILTER, call, arm) == ALLOW
    assert answer_of(FILTER, 0xEFFFF, arm) == MISSING


def test_a_process_seems_to_become_undumpable_and_finds_no_audit() -> None:
    for arch in _ARCHES:
        prctl, create = number("prctl", arch), number("socket", arch)
        assert prctl is not None
        assert [answer_of(FILTER, prctl, arch, option) for option in (3, 4, 38)] == [ALLOW, SUCCESS, ALLOW]
        if create is not None and create < 350:
            answers = [answer_of(FILTER, create, arch, 16, 3, protocol) for protocol in (0, 9)]
            assert answers == [ALLOW, refuse(errno.EPROTONOSUPPORT)]


@pytest.mark.parametrize("architecture", ["riscv64", "s390x", "ppc64le", "loong64"])
def test_there_is_none_where_there_is_no_such_proot(architecture: str) -> None:
    with pytest.raises(MachineError, match="no filter for proot"):
        proot_filter(Platform("linux", architecture))


# In a guest


@pytest.fixture
def python(container: Container) -> tuple[Container, list[str]]:
    """A container with options that show the host's Python in it."""
    need("proot")
    starter("proot")
    if platform.machine() != "x86_64":
        unavailable("the calls are numbered for x86_64")
    program = Path(os.path.realpath(sys.executable))
    places = {"/usr", "/lib", "/lib64", sysconfig.get_paths()["stdlib"], str(program.parent)}
    # Directories of root's home are closed to the user who starts it.
    if subprocess.run([program, "-c", ""], check=False, **starter("proot")).returncode:
        program = Path("/usr/bin/python3")
    binds = [word for place in sorted(places) if os.path.isdir(place) for word in ("--bind", place)]
    shutil.copy(path_calls.__file__, container.rootfs / "calls.py")
    return container, [*binds, str(program), "-I"]


def make_files(directory: Path) -> Path:
    """Files as `path_calls` wants them."""
    directory.mkdir()
    path = directory / "x"
    path.write_text("text")
    (directory / "xl").symlink_to("target")
    (directory / "xd").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(directory / "xs"))
    for entry in (directory, *directory.iterdir()):
        if not entry.is_symlink():
            entry.chmod(0o777)
    return path


def ends_of_calls(guest: tuple[Container, list[str]], place: Path) -> tuple[dict[str, list[str]], Path]:
    container, python = guest
    canary = make_files(place / "canary")
    make_files(container.rootfs / "own")
    hand_over(container)
    (container.rootfs / "own").chmod(0o777)
    output = container.output("proot", *python, "/calls.py", "/own/x", str(canary))
    return json.loads(output), canary


def test_no_call_reaches_the_host_s_files(python: tuple[Container, list[str]], place: Path) -> None:
    found, canary = ends_of_calls(python, place)
    assert {name: host for name, (_, host) in found.items() if host not in ("ENOENT", "ENOSYS")} == {}
    assert [found[name][0] for name in ("openat", "newfstatat", "faccessat", "fchmodat", "chdir")] == ["ok"] * 5
    assert sorted(os.listdir(canary.parent)) == ["x", "xd", "xl", "xs"]
    assert canary.read_text() == "text"


def test_the_same_calls_reach_them_without_the_filter(python: tuple[Container, list[str]], place: Path) -> None:
    """So the calls are real ones; for a proot that translates all of them there would be nothing to see."""
    container, _ = python
    (container.directory / ".provision/proot.bpf").unlink()
    (container.directory / ".provision/proot-facts").write_text("")
    canary = make_files(place / "canary")
    make_files(container.rootfs / "own")
    hand_over(container)
    done = container.run("proot", *python[1], "/calls.py", "/own/x", str(canary))
    if b"files of this machine" not in done.stderr:
        unavailable("this proot translates them")
    found = json.loads(done.stdout)
    reached = {name for name, (_, host) in found.items() if host == "ok"}
    assert {"statx", "faccessat2", "openat2"} <= reached


def test_all_that_proot_translates_still_works(python: tuple[Container, list[str]], place: Path) -> None:
    """Nothing that an older kernel has is missing."""
    found, _ = ends_of_calls(python, place)
    gone = {name for name, (guest, _) in found.items() if guest == "ENOSYS"}
    assert gone <= {
        *("bpf", "execveat", "faccessat2", "fanotify_mark", "fchmodat2", "file_getattr", "file_setattr", "fspick"),
        *("getxattrat", "listxattrat", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "openat2"),
        *("quotactl", "removexattrat", "renameat2", "setxattrat", "statx", "uselib", "io_uring_setup"),
        "a call to come",
    }


def test_the_filter_leaves_setuid_to_root_alone(container: Container) -> None:
    """A user's setuid programs have no effect below a tracer anyhow; root with CAP_SYS_ADMIN needs no no_new_privs."""
    need("proot")
    (container.rootfs / "bin/grep").symlink_to("busybox")
    assert container.output("proot", "grep", "^Seccomp:", "/proc/self/status").split() == [b"Seccomp:", b"2"]
    assert container.output("proot", "grep", "NoNewPrivs", "/proc/self/status").split()[1] == b"1"
    if os.geteuid() == 0:
        options = {"by": "chroot", "env": {**os.environ, "PROVISION_TRUST_DIR": "*"}}
        assert container.output("proot", "grep", "NoNewPrivs", "/proc/self/status", **options).split()[1] == b"0"
        words = ("--no-new-privs", "grep", "NoNewPrivs", "/proc/self/status")
        assert container.output("proot", *words, **options).split()[1] == b"1"


def test_it_works_with_a_proot_that_has_filters_of_its_own(container: Container, place: Path) -> None:
    """The answer of a filter counts before that of proot's, which only asks to be stopped (seccomp(2))."""
    if "PROVISION_TEST_PROOT" not in os.environ:
        pytest.skip("PROVISION_TEST_PROOT names no build of Termux's proot")
    (place / "tools").mkdir()
    shutil.copy(os.environ["PROVISION_TEST_PROOT"], place / "tools/proot")
    (container.rootfs / "bin/grep").symlink_to("busybox")
    env = starter("proot")["env"]
    env = {**env, "PATH": f"{place}/tools:{env['PATH']}", **{k: v for k, v in os.environ.items() if k[:6] == "PROOT_"}}
    assert container.output("proot", "true", env=env) == b""
    facts = container.directory / ".provision/proot-facts"
    lines = facts.read_text().splitlines()
    assert lines[1] == "0", "it translates the newer calls"
    facts.write_text("\n".join([lines[0], "7", *lines[2:], ""]))
    seen = container.output("proot", "sh", "-c", "cat /etc/passwd; grep Seccomp_filters /proc/self/status", env=env)
    assert seen.startswith(b"root:x:0:0")
    assert int(seen.split()[-1]) >= 2
    assert container.run("proot", "sh", "-c", "true; kill -SEGV $$", env=env).returncode == 139
