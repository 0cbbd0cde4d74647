"""What start.sh does on Android alone: replacements, directories of the phone, placeholders, 32-bit programs."""

from __future__ import annotations

import itertools
import os
import platform
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from provisioner.doctor.check import Site
from provisioner.doctor.termux import runs_32_bit
from provisioner.launch.script import body
from tests.support.containers import Container, hand_over, starter
from tests.support.termux import environment_with, with_similar_proot
from tests.support.tools import clean_environment, need, need_root, user_id

PHONE = {"ANDROID_ROOT": "/system", "PREFIX": "/nowhere/files/usr"}


def proot_words(container: Container, *options: str, **variables: str) -> list[str]:
    """The words of the command line that --print shows."""
    env = {**starter("proot")["env"], **variables}
    done = container.run("proot", *options, "--print", "true", env=env)
    assert done.returncode == 0, done
    return shlex.split(done.stdout.decode().strip())


def bind_of(words: list[str], destination: str) -> str:
    """The source of the last bind on a destination."""
    binds = [word for option, word in itertools.pairwise(words) if option == "-b"]
    return next((bind[: -len(destination) - 1] for bind in reversed(binds) if bind.endswith(f":{destination}")), "")


# Placeholders


@pytest.fixture
def polluted(container: Container) -> Container:
    """A rootfs with what an older version left there when its proot was killed."""
    for name in ("system", "vendor", "apex", "data/data/termux/files/home", "sdcard"):
        (container.rootfs / name).mkdir(parents=True)
    (container.rootfs / "linkerconfig").mkdir()
    (container.rootfs / "linkerconfig/ld.config.txt").touch()
    hand_over(container)
    for name in ("system", "vendor", "apex", "data/data/termux/files/home", "linkerconfig/ld.config.txt"):
        (container.rootfs / name).chmod(0)
    return container


def test_what_older_versions_left_for_binds_is_taken_away(polluted: Container) -> None:
    need("proot")
    env = {**starter("proot")["env"], "PREFIX": "/data/data/termux/files/usr"}
    done = polluted.run("proot", "true", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    left = {path.name for path in polluted.rootfs.iterdir()}
    assert not left & {"system", "vendor", "apex", "data", "linkerconfig"}
    assert "sdcard" in left, "it can be read, so somebody else has made it"


@pytest.mark.parametrize("why", ["not empty", "readable", "a link", "behind a link", "content", "in use", "printing"])
def test_what_is_not_certainly_of_proot_stays(polluted: Container, place: Path, why: str) -> None:
    need("proot")
    kept = polluted.rootfs / "vendor"
    options = []
    if why == "not empty":
        kept.chmod(0o700)
        (kept / "file").touch()
        kept.chmod(0)
    elif why == "readable":
        kept.chmod(0o500)
    elif why == "a link":
        kept.rmdir()
        (place / "elsewhere").mkdir()
        kept.symlink_to(place / "elsewhere")
        os.chmod(place / "elsewhere", 0)
        os.chown(place / "elsewhere", user_id(), -1)
    elif why == "behind a link":
        (polluted.rootfs / "linkerconfig").rename(place / "elsewhere")
        (polluted.rootfs / "linkerconfig").symlink_to(place / "elsewhere")
        kept = place / "elsewhere/ld.config.txt"
    elif why == "content":
        kept = polluted.rootfs / "linkerconfig/ld.config.txt"
        kept.chmod(0o600)
        kept.write_text("content")
        kept.chmod(0)
    elif why == "printing":
        options = ["--print"]
    if why == "in use":
        with polluted.running("userns", "sh", "-c", "echo ready; read word", stdin=subprocess.PIPE) as running:
            assert running.stdout
            assert running.stdin
            assert running.stdout.readline() == b"ready\n"
            assert polluted.run("proot", "true").returncode == 0
            running.stdin.close()
    else:
        assert polluted.run("proot", *options, "true").returncode == 0
    assert os.path.lexists(kept)
    assert why != "a link" or (place / "elsewhere").is_dir()


# Replacements and directories


def test_files_of_proc_and_sys_are_replaced(container: Container) -> None:
    need("proot")
    env = {**starter("proot")["env"], "PROVISION_TEST_FAKE_PROC": "yes", **PHONE}
    files = ["kernel/overflowuid", "kernel/overflowgid", "kernel/cap_last_cap", "fs/inotify/max_user_watches"]
    done = container.run("proot", "cat", *(f"/proc/sys/{file}" for file in files), env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split()[:2] == [b"65534"] * 2
    assert done.stdout.split()[2] == Path("/proc/sys/kernel/cap_last_cap").read_bytes().strip()
    assert done.stdout.split()[3] == b"8192"


@pytest.mark.parametrize(("release", "last"), [("4.19.157-perf+", "37"), ("5.8.1", "39"), ("5.9", "40"), ("6.1", "40")])
def test_the_last_capability_is_the_kernel_s(container: Container, place: Path, release: str, last: str) -> None:
    need("proot")
    tools = place / "tools"
    tools.mkdir()
    (tools / "uname").write_text(
        f'#!/bin/sh\n[ "$1" != -r ] || exec echo {release}\nexec {shutil.which("uname")} "$@"\n'
    )
    (tools / "uname").chmod(0o755)
    env = {**environment_with(tools), "PROVISION_TEST_FAKE_PROC": "yes"}
    done = container.run("proot", "cat", "/proc/sys/kernel/cap_last_cap", env=env)
    assert done.stdout.decode().strip() == last


def test_on_a_phone_random_numbers_never_wait_and_there_is_no_selinux(container: Container) -> None:
    words = proot_words(container, **PHONE)
    assert bind_of(words, "/dev/random") == "/dev/urandom"
    assert bool(bind_of(words, "/sys/fs/selinux")) == os.path.isdir("/sys/fs/selinux")
    elsewhere = proot_words(container)
    assert bind_of(elsewhere, "/dev/random") == bind_of(elsewhere, "/sys/fs/selinux") == ""


def test_termux_brings_its_files_and_the_shared_storage(container: Container, place: Path) -> None:
    prefix = place / "files/usr"
    (place / "files/home").mkdir(parents=True)
    prefix.mkdir()
    env = {**starter("proot")["env"], "PREFIX": str(prefix)}
    done = container.run("proot", "--termux", "--print", "true", env=env)
    words = shlex.split(done.stdout.decode())
    for own in (prefix, place / "files/home"):
        assert bind_of(words, str(own)) == str(own)
    said = done.stderr.decode()
    for path in ("/storage", "/sdcard"):
        assert (path in said) != os.path.exists(path)
        assert bind_of(words, path) == (path if os.path.exists(path) else "")


def test_selinux_of_a_phone_is_not_the_guest_s(container: Container) -> None:
    """With a /sys that has it, for this start."""
    need_root()
    need("unshare", "mount", "proot")
    fake = "mount -t tmpfs none /sys/fs && mkdir /sys/fs/selinux && touch /sys/fs/selinux/enforce && exec"
    start = f"{fake} {container.script} --runtime proot sh -c 'cd /sys/fs/selinux && echo *'"
    env = {**clean_environment(), "ANDROID_ROOT": "/system"}
    done = subprocess.run(["unshare", "-m", "sh", "-c", start], env=env, capture_output=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"*\n", b"")


# The kernel's release


@pytest.mark.parametrize(
    ("needed", "release", "used"),
    [
        ("", "3.18.31-perf", False),
        ("4.4.0", "3.18.31-perf", True),
        ("4.4.0", "4.4.0", False),
        ("4.4.0", "4.14.1-android", False),
        ("5.10", "5.4.86", True),
        ("5.10", "6.1", False),
        ("4.4.0", "odd", False),
    ],
)
def test_the_kernel_seems_newer_only_where_the_libc_needs_it(
    container: Container, place: Path, needed: str, release: str, used: bool
) -> None:
    env = with_similar_proot(place)
    (place / "tools/uname").write_text(
        f'#!/bin/sh\n[ "$1" != -r ] || exec echo {release}\nexec {shutil.which("uname")} "$@"\n'
    )
    (place / "tools/uname").chmod(0o755)
    container.set(image_kernel=needed)
    done = container.run("proot", "--print", "true", env=env)
    words = shlex.split(done.stdout.decode())
    assert ("-k" in words) == used
    assert not used or words[words.index("-k") + 1] == needed


# Words for proot


def test_words_for_proot_are_added(container: Container, place: Path) -> None:
    need("proot")
    container.set(default_proot_options=("-b", "/etc:/first path"))
    words = proot_words(container, "--proot-option", "-b", "--proot-option=/usr:/second")
    at = words.index("/etc:/first path")
    assert words[at - 1 : at + 3] == ["-b", "/etc:/first path", "-b", "/usr:/second"]
    assert words.index("/usr:/second") < words.index("/dev:/dev")
    done = container.run("proot", "--proot-option", "-b", "--proot-option=/usr:/second", "sh", "-c", "echo /second/*")
    assert b"/second/share" in done.stdout


# Programs of another architecture

ARCHITECTURES = {"386": "i386", "arm": "arm"}


def tiny_program(shell: str, cpu: str, place: Path) -> tuple[int, bytes]:
    """The exit status of start.sh's tiny program for a processor, and its content."""
    (place / ".provision").mkdir(exist_ok=True)
    script = (
        body().decode().rpartition("main")[0]
        + 'rm() { cp "$2" "$directory/copy"; command rm -f "$2"; }\ndirectory=$1\ntry_program "$2"\n'
    )
    (place / "script").write_text(script)
    done = subprocess.run([shell, place / "script", place, cpu], check=False, stderr=subprocess.DEVNULL)
    return done.returncode, (place / "copy").read_bytes()


@pytest.mark.parametrize("shell", ["dash", "bash", "mksh"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_start_sh_and_doctor_run_the_same_tiny_program(tmp_path: Path, shell: str, architecture: str) -> None:
    need(shell)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    works = runs_32_bit(architecture, Site(tmp_path, scratch))
    status, content = tiny_program(shell, ARCHITECTURES[architecture], tmp_path)
    assert content == (scratch / f"program-{architecture}").read_bytes()
    assert struct.unpack_from("<4sBB10xHH", content) == (b"\x7fELF", 1, 1, 2, {"386": 3, "arm": 40}[architecture])
    assert (status == 0) == works
    need(f"qemu-{ARCHITECTURES[architecture]}-static")
    emulated = subprocess.run([f"qemu-{ARCHITECTURES[architecture]}-static", tmp_path / "copy"], check=False)
    assert emulated.returncode == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a fake uname pretends aarch64")
def test_a_machine_without_32_bit_instructions_needs_qemu(container: Container, place: Path) -> None:
    """This one can't run arm's at all."""
    env = {
        **environment_of_uname(place, "aarch64"),
        "PREFIX": "/data/data/com.termux/files/usr",
        "PROVISION_RUNTIME": "",
    }
    container.set(image_platform="linux/arm/v7")
    (container.directory / ".provision/machine").unlink()  # by which the kernel's answer would count
    done = container.run("proot", "true", env={**env, "PATH": str(place / "tools")})
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode().splitlines()[-1] == (
        "start.sh: the image is for linux/arm/v7, this machine is aarch64: pkg install proot qemu-user-arm"
    )


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("linux/amd64", "this machine is aarch64: pkg install proot qemu-user-x86-64"),
        ("linux/riscv64", "this machine is aarch64: pkg install proot qemu-user-riscv64"),
        ("linux/s390x", "and Termux has no qemu-user for that: provision it for aarch64"),
        ("linux/ppc64le", "and Termux has no qemu-user for that: provision it for aarch64"),
        ("linux/loong64", "and Termux has no qemu-user for that: provision it for aarch64"),
        ("linux/mips64le", "and Termux has no qemu-user for that: provision it for aarch64"),
    ],
)
def test_packages_have_the_names_of_termux(container: Container, place: Path, image: str, said: str) -> None:
    env = {**environment_of_uname(place, "aarch64"), "PREFIX": "/data/data/com.termux/files/usr"}
    container.set(image_platform=image)
    (container.directory / ".provision/machine").unlink()  # by which the kernel's answer would count
    done = container.run("proot", "true", env={**env, "PATH": str(place / "tools")})
    assert done.returncode == 125
    assert done.stderr.decode().splitlines()[-1] == f"start.sh: the image is for {image}, {said}"


def test_the_programs_for_namespaces_are_in_two_packages_there(container: Container, place: Path) -> None:
    env = {**environment_of_uname(place, platform.machine()), "PREFIX": "/data/data/com.termux/files/usr"}
    done = container.run("userns", "true", env={**env, "PATH": str(place / "tools")})
    assert done.returncode == 125
    assert done.stderr.decode().splitlines()[-1].endswith(": pkg install util-linux mount-utils")


def environment_of_uname(place: Path, machine: str) -> dict[str, str]:
    """An environment with a uname(1) that names another machine, the programs that start.sh needs, and no qemu."""
    tools = place / "tools"
    tools.mkdir()
    for name in ("sh", "env", "setpriv", "mktemp", "chmod", "rm", "ls", "id", "readlink", "proot", "mkdir"):
        need(name)
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tools / "uname").chmod(0o755)
    return {**starter("proot")["env"], "PROVISION_TEST_SBIN": ""}
