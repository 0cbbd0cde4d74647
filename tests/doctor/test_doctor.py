"""What doctor tells of this machine, of Android's restrictions, and of file systems and programs that fail."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provisioner.doctor import fixes as mends
from provisioner.doctor import network, runtimes
from provisioner.doctor.check import Check, Finding, Site, State
from provisioner.doctor.children import Reply, attempt, in_children, run_program
from provisioner.doctor.diagnosis import OF_A_CONTAINER, OF_THE_NETWORK, PROBES, Diagnosis, diagnose
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.jail import HOME, PREFIX, Jail
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, find_program, need, need_root, provision, provision_command, run


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.stderr == ""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def doctor(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return provision("doctor", "--offline", *words, **options)


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {name: check["state"] for name, check in checks(done).items()}


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    need_root()
    run("mount", *options, str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


# This machine


def test_root_can_do_all_that_this_machine_can(tmp_path: Path) -> None:
    need_root()
    need("proot", "bwrap", "fakeroot", "zstd", "qemu-aarch64-static")
    done = doctor("--json", tmp_path)
    found = checks(done)
    assert done.returncode == 0
    works = (
        "directory",
        "symlinks",
        "execution",
        "hard links",
        "devices",
        "owners",
        "space",
        "proot",
        "unshare",
        "zstd",
    )
    assert {name: found[name]["state"] for name in works} == dict.fromkeys(works, "ok")
    assert found["runtime"]["detail"].startswith(("start.sh takes chroot", "start.sh takes proot"))
    assert "aarch64" in found["qemu"]["detail"]
    assert [*found] == [probe.name for probe in PROBES] + ["runtime"]
    assert os.listdir(tmp_path) == []


def test_a_user_is_told_what_only_root_can(place: Path) -> None:
    need_root()
    need("proot")
    done = doctor("--json", place, **as_user())
    found = checks(done)
    assert done.returncode == 0
    for name in ("owners", "devices", "chroot"):
        assert found[name]["state"] == "no"
        assert "Operation not permitted" in found[name]["detail"]
    assert found["runtime"]["detail"].startswith("start.sh takes proot")


def test_one_line_each_with_a_mark_that_needs_no_colour(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    *lines, result = done.stdout.splitlines()
    assert len(lines) == len(PROBES) + 1
    assert all(re.match(r"(ok|no|\? )  [a-zA-Z. ]+: .", line) for line in lines)
    assert result == f"provision works in {tmp_path}"


def test_it_fits_a_phone(tmp_path: Path) -> None:
    command, options = provision_command("doctor", "--offline", tmp_path, cache=tmp_path)
    ours, theirs = pty.openpty()
    env = {**options["env"], "COLUMNS": "40", "TERM": "xterm"}
    done = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert done.wait() == 0
    lines = re.sub(r"\033\[\d*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0] == "ok  directory: can be written"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_a_directory_to_be_made_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    done = doctor("--json", tmp_path / "new/dir")
    assert json.loads(done.stdout)["directory"] == f"{tmp_path}/new/dir"
    assert states(done)["symlinks"] == "ok"
    assert os.listdir(tmp_path) == []


def test_without_a_directory_it_is_the_current_one_or_that_for_temporary_files(place: Path) -> None:
    inside = doctor("--json", **{**as_user(), "cwd": place})
    assert json.loads(inside.stdout)["directory"] == str(place.resolve())
    need_root()
    options = as_user(TMPDIR=str(place))
    outside = doctor("--json", **{**options, "cwd": "/"})
    assert json.loads(outside.stdout)["directory"] == str(place.resolve())


def test_names_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    evil = tmp_path / "a\x1b[2J\nb"
    evil.mkdir()
    done = doctor(evil)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == rf"provision works in {tmp_path}/a\x1b[2J\nb"


def test_what_ends_it_in_its_first_moment_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def interrupted(*place: Any, **options: Any) -> None:
        make(*place, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diagnose(tmp_path, offline=True)
    assert os.listdir(tmp_path) == []


def test_what_ends_it_early_leaves_nothing(tmp_path: Path) -> None:
    script(tmp_path / "proot", "sleep 60")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    place = tmp_path / "place"
    place.mkdir()
    command, options = provision_command("doctor", place, "--offline", cache=tmp_path, env=env)
    with subprocess.Popen(command, **options) as process:
        deadline = time.monotonic() + 20
        while not os.listdir(place) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert os.listdir(place) == []


@pytest.mark.slow
def test_a_probe_that_hangs_is_given_up(tmp_path: Path) -> None:
    script(tmp_path / "proot", "sleep 60")
    started = time.monotonic()
    done = doctor("--json", tmp_path, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert time.monotonic() - started < 20
    found = checks(done)
    assert (found["proot"]["state"], found["proot"]["detail"]) == ("?", "can't be told: no answer in 6 seconds")
    assert found["fakeroot"]["state"] == "ok"
    assert os.listdir(tmp_path) == ["proot"]


# Android


@pytest.fixture(scope="module")
def phone(lasting_place: Path) -> Jail:
    place = lasting_place / "phone"
    place.mkdir()
    return Jail(place, "sigsys")


def in_jail(jail: Jail, **options: Any) -> subprocess.CompletedProcess[str]:
    return jail.run(["python3", "-m", "provisioner", "doctor", "--json", "--offline"], **options)


def test_android_s_restrictions_are_told_truthfully(phone: Jail) -> None:
    done = in_jail(phone, allow=["tmp"])
    found = checks(done)
    assert done.returncode == 0
    assert {name: check["state"] for name, check in found.items() if check["state"] != "ok"} == {
        **dict.fromkeys(("hard links", "attributes", "devices", "owners", "chroot", "userns", "unshare"), "no"),
        **dict.fromkeys(("subuid", "bwrap", "qemu", "libmagic", "fakeroot"), "no"),
        "phantom processes": "?",
    }
    assert "the kernel ends what tries it (SIGSYS)" in found["userns"]["detail"]
    assert "os.link" in found["python"]["detail"]
    assert found["umask"]["detail"].startswith("0077")
    assert found["runtime"]["detail"] == "start.sh takes proot; usable: proot"
    assert found["fakeroot"]["mend"] == "pkg install fakeroot"
    assert list(phone.home.iterdir()) == []
    assert list((phone.prefix / "tmp").iterdir()) == []


def test_where_links_exist_in_python_the_kernel_s_refusal_is_told(phone: Jail) -> None:
    # A Python from elsewhere has os.link: without the file that makes this one look like Termux's.
    command = ["python3", "-m", "provisioner", "doctor", "--json", "--offline"]
    paths = f"{PREFIX}/opt/provision:{PREFIX}/opt/provision/packages"
    found = checks(phone.run(["env", f"PYTHONPATH={paths}", *command], allow=["tmp"]))
    assert found["hard links"]["detail"].startswith("Permission denied")


def test_an_android_where_proot_cannot_work_is_told_by_the_status(phone: Jail) -> None:
    if "PROVISION_TEST_PROOT" in os.environ:
        pytest.skip("Termux's proot works there")
    done = in_jail(phone)  # Debian's proot needs a /tmp
    assert done.returncode == 7
    assert states(done)["runtime"] == "no"


@pytest.mark.parametrize(
    ("level", "switch", "limit", "state", "says"),
    [
        ("30", "", "", "ok", "no limit before Android 12"),
        ("34", "false", "", "ok", "the limit is off"),
        ("34", "true", "", "no", "settings put global settings_enable_monitor_phantom_procs false"),
        ("31", "", "64", "no", "max_phantom_processes 2147483647"),
        ("31", "", "2147483647", "ok", "the limit is 2147483647"),
    ],
)
@pytest.mark.slow
def test_the_phantom_limit(phone: Jail, level: str, switch: str, limit: str, state: str, says: str) -> None:
    for name, reply in (("getprop", level), ("settings", switch), ("device_config", limit)):
        program = phone.prefix / "bin" / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!{PREFIX}/bin/sh\necho '{reply}'\n[ -n '{reply}' ]\n")
        program.chmod(0o755)
    try:
        check = checks(in_jail(phone, allow=["tmp"]))["phantom processes"]
    finally:
        for name in ("getprop", "settings", "device_config"):
            (phone.prefix / "bin" / name).unlink()
    assert check["state"] == state
    assert says in check["detail"] + check["mend"]
    assert limit in check["detail"]


def test_there_is_no_such_limit_elsewhere(tmp_path: Path) -> None:
    assert checks(doctor("--json", tmp_path))["phantom processes"]["detail"] == "no limit: this is no Android"


# File systems


def test_a_file_system_mounted_noexec_cannot_start_anything(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "noexec", "tmpfs"):
        done = doctor("--json", tmp_path)
        found = checks(done)
    assert done.returncode == 7
    assert found["execution"]["state"] == "no"
    assert "mounted noexec" in found["execution"]["detail"]
    assert f"mount -o remount,exec {tmp_path}" in found["execution"]["mend"]
    assert found["file system"]["detail"] == f"tmpfs at {tmp_path}"


def test_devices_that_cannot_be_opened(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "nodev", "tmpfs"):
        check = checks(doctor("--json", tmp_path))["devices"]
    assert (check["state"], "not opened" in check["detail"]) == ("no", True)


@pytest.mark.parametrize("options", ["size=4m", "nr_inodes=200"])
def test_too_little_space(tmp_path: Path, options: str) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", options, "tmpfs"):
        done = doctor(tmp_path)
    assert done.returncode == 7
    assert "no  space: " in done.stdout
    assert done.stdout.splitlines()[-1] == f"provision can't work in {tmp_path}: space"


def test_a_full_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "full").write_bytes(bytes(1 << 20))
        done = doctor("--json", tmp_path)
        assert os.listdir(tmp_path) == ["full"]
    assert done.returncode == 7
    assert states(done)["space"] == "no"


def test_a_file_system_that_cannot_be_written(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        done = doctor("--json", tmp_path)
    found = checks(done)
    assert done.returncode == 7
    assert "Read-only file system" in found["directory"]["detail"]
    assert "symlinks" not in found


def test_a_directory_that_is_closed_to_this_user(tmp_path: Path) -> None:
    need_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = doctor("--json", closed / "new/dir", **as_user())
    assert done.returncode == 7
    assert "Permission denied" in checks(done)["directory"]["detail"]


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
            run("umount", place)
    finally:
        run("losetup", "--detach", device)
    found = checks(done)
    assert done.returncode == 7
    assert [found[name]["state"] for name in ("symlinks", "hard links", "devices")] == ["no"] * 3
    assert found["execution"]["detail"].startswith("files can't be made executable")


# Programs


def without(tmp_path: Path, *names: str) -> dict[str, str]:
    """An environment whose PATH lacks these programs, and any package manager but apt."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for file in Path(folder).iterdir():
            if file.name not in names and not (programs / file.name).exists():
                (programs / file.name).symlink_to(file)
    return {**os.environ, "PATH": str(programs)}


def test_programs_that_are_missing_are_named_with_their_packages(tmp_path: Path) -> None:
    env = without(tmp_path, "proot", "bwrap", "fakeroot", "zstd", *(f"qemu-{n}-static" for n in runtimes.QEMU.values()))
    found = checks(doctor("--json", tmp_path, env=env))
    packages = {"proot": "proot", "bwrap": "bubblewrap", "fakeroot": "fakeroot", "qemu": "qemu-user-static"}
    before = "" if os.geteuid() == 0 or not shutil.which("sudo") else "sudo "
    behind = "" if os.geteuid() == 0 or before else " (as root)"
    assert {name: (found[name]["state"], found[name]["mend"]) for name in packages} == {
        name: ("no", f"{before}apt install {package}{behind}") for name, package in packages.items()
    }
    assert found["proot seccomp"]["state"] == "?"


def test_a_machine_that_can_start_nothing(place: Path) -> None:
    need_root()
    empty = place / "empty"
    empty.mkdir()
    command, options = provision_command("doctor", "--offline", place, cache=place, **as_user())
    options["env"]["PATH"] = str(empty)
    done = subprocess.run(command, **options, check=False)
    assert done.returncode == 7
    assert f"provision can't work in {place.resolve()}: runtime" in done.stdout


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "apt install libmagic1"),
        ("apk", "apk add libmagic"),
        ("dnf", "dnf install file-libs"),
        ("pacman", "pacman -S file"),
        ("zypper", "zypper install libmagic1"),
    ],
)
def test_the_mend_is_in_the_words_of_this_system(
    manager: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / manager, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mends.install("libmagic1").removesuffix(" (as root)") == command
    monkeypatch.setenv("PREFIX", PREFIX)
    assert mends.install("libmagic1") == "pkg install libmagic"
    assert mends.install("qemu-user-static", "aarch64") == "pkg install qemu-user-aarch64"
    assert mends.install("qemu-user-static", "x86_64") == "pkg install qemu-user-x86-64"
    assert mends.install("uidmap") == ""


PICKY = """
case "$1" in --version | --help) exec {real} "$@" ;; esac
[ -n "$PROOT_NO_SECCOMP" ] && exec {real} "$@"
echo "proot error: execve: Function not implemented" >&2
exit 1
"""


def test_a_proot_whose_seccomp_fails(place: Path) -> None:
    need("proot")
    (place / "bin").mkdir()
    script(place / "bin/proot", PICKY.format(real=find_program("proot")))
    path = f"{place}/bin:{os.environ['PATH']}"
    found = checks(doctor("--json", place, env={**os.environ, "PATH": path}))
    assert found["proot"]["state"] == "ok"
    assert (found["proot seccomp"]["state"], found["proot seccomp"]["mend"]) == ("no", "export PROOT_NO_SECCOMP=1")
    assert "Function not implemented" in found["proot seccomp"]["detail"]
    env = {**os.environ, "PATH": path, "PROOT_NO_SECCOMP": "1"}
    check = checks(doctor("--json", place, env=env))["proot seccomp"]
    assert check["state"] == "ok"
    assert check["detail"].startswith("fails, and PROOT_NO_SECCOMP is set")


def test_where_there_is_no_tmp_proot_gets_the_directory_that_there_is(phone: Jail) -> None:
    programs = phone.home / "bin"
    programs.mkdir()
    (programs / "proot").write_text(f'#!{PREFIX}/bin/sh\necho "its temporary files: $PROOT_TMP_DIR"\nexit 1\n')
    (programs / "proot").chmod(0o755)
    try:
        done = in_jail(phone, env={"PATH": f"{HOME}/bin:{PREFIX}/bin"})
    finally:
        shutil.rmtree(programs)
    assert f"its temporary files: {PREFIX}/tmp" in checks(done)["proot"]["detail"]


def test_a_fakeroot_that_pretends_nothing(tmp_path: Path) -> None:
    script(tmp_path / "fakeroot", "echo 1000")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    check = checks(doctor("--json", tmp_path, env=env))["fakeroot"]
    assert (check["state"], check["detail"]) == ("no", "fails: 1000")


def test_root_without_the_programs_for_chroot(tmp_path: Path) -> None:
    need_root()
    done = doctor("--json", tmp_path, env=without(tmp_path, "proot", "unshare"))
    found = checks(done)
    assert done.returncode == 7
    assert found["unshare"]["mend"] == "apt install util-linux"
    assert (found["chroot"]["state"], found["runtime"]["state"]) == ("ok", "no")


def test_user_namespaces_that_the_kernel_refuses(tmp_path: Path) -> None:
    need_root()
    need("unshare")
    # Settings of a user namespace of its own, where none may be made.
    command, options = provision_command("doctor", "--json", "--offline", tmp_path, cache=tmp_path)
    inner = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(["unshare", "--user", "-r", "sh", "-c", inner, "sh", *command], check=False, **options)
    check = checks(done)["userns"]
    assert check["state"] == "no"
    assert "sysctl -w user.max_user_namespaces=15000" in check["mend"]


# What was provisioned


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    with ScriptedRegistry() as registry:

        def make(platform: str) -> Path:
            registry.push("image", builders.small())
            done = provision(f"{registry.host}/image", tmp_path / "dir", "--platform", platform)
            assert done.returncode == 0, done.stderr
            (tmp_path / "dir/rootfs/bin/sh").chmod(0o755)  # proot looks whether it can be executed
            return tmp_path / "dir"

        yield make


def as_platform(directory: Path, platform: str) -> None:
    for file in (directory / ".provision/record.json", directory / "start.sh"):
        text = file.read_text()
        file.write_text(text.replace("linux/amd64", platform))


def test_a_container_of_this_machine_s_can_be_started(container: Callable[[str], Path]) -> None:
    directory = container("amd64")
    before = sorted(directory.iterdir())
    found = checks(doctor("--json", directory))
    assert [*found][-2:] == [probe.name for probe in OF_A_CONTAINER]
    assert found["platform"]["detail"] == "linux/amd64 is for this machine"
    assert found["start.sh"]["detail"] in ("starts with chroot", "starts with proot")
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/riscv64"])
def test_a_container_of_another_machine_s_needs_qemu(
    platform: str, container: Callable[[str], Path], tmp_path: Path
) -> None:
    need("proot", "qemu-aarch64-static")
    directory = container("amd64")
    as_platform(directory, platform)
    (directory / "rootfs/bin/sh").chmod(0o755)
    name = {"linux/arm64": "aarch64", "linux/riscv64": "riscv64"}[platform]
    found = checks(doctor("--json", directory))
    assert f"by qemu-{name}-static" in found["platform"]["detail"]
    assert found["start.sh"]["detail"] == "starts with proot"
    done = doctor("--json", directory, env=without(tmp_path, f"qemu-{name}-static"))
    found = checks(done)
    assert done.returncode == 7
    assert (found["platform"]["state"], found["start.sh"]["state"]) == ("no", "no")
    assert "apt install qemu-user-static" in found["platform"]["mend"]
    assert "qemu-user-static" in found["start.sh"]["mend"]


def test_what_start_sh_makes_while_it_looks_is_gone(container: Callable[[str], Path], tmp_path: Path) -> None:
    directory = container("amd64")
    script(directory / "start.sh", 'mktemp -d "$TMPDIR/start.XXXXXX" && echo /usr/bin/proot -r x')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = checks(doctor("--json", directory, env={**os.environ, "TMPDIR": str(temporary)}))
    assert found["start.sh"]["detail"] == "starts with proot"
    assert os.listdir(temporary) == []


def test_a_newer_processor_s_image(container: Callable[[str], Path]) -> None:
    directory = container("amd64")
    as_platform(directory, "linux/amd64/v9")
    assert states(doctor("--json", directory))["platform"] == "?"


def test_a_damaged_container(container: Callable[[str], Path]) -> None:
    directory = container("amd64")
    (directory / ".provision/record.json").write_text("{")
    (directory / "start.sh").unlink()
    done = doctor("--json", directory)
    assert done.returncode == 7
    assert [states(done)[name] for name in ("platform", "start.sh")] == ["?", "no"]


# Network


def test_a_registry_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(Path("/"), None)
    with ScriptedRegistry() as registry:
        url = f"http://{registry.host}/v2/"
        assert network.registry(site, url) == Finding(State.OK, f"{registry.host} answers")
        assert network.names(site, url).state == State.OK
        registry.on("/v2/", Response(502))
        assert network.registry(site, url).detail == f"{registry.host} answers with status 502"
    assert network.registry(site, url).state == State.NO


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://joe:secret@127.0.0.1:1/")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for finding in (
        network.registry(Site(Path("/"), None)),
        network.names(Site(Path("/"), None), "https://x.invalid/"),
    ):
        assert finding.state != State.OK
        assert "127.0.0.1:1" in finding.detail
        assert "secret" not in finding.detail + finding.mend


def test_offline_asks_no_network_and_a_lost_one_is_not_the_machine_s_fault(tmp_path: Path) -> None:
    assert not {probe.name for probe in OF_THE_NETWORK} & states(doctor("--json", tmp_path)).keys()
    env = {**os.environ, "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    done = provision("doctor", tmp_path, "--json", env=env)
    assert states(done)["registry"] == "no"
    assert done.returncode == 0


# Children


def _forbidden() -> None:
    signal.raise_signal(signal.SIGSYS)


def test_replies_of_children() -> None:
    def refused() -> None:
        raise PermissionError(13, "no")

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    actions: list[Callable[[], object]] = [
        lambda: "value",
        refused,
        broken,
        partial(os.kill, 0, signal.SIGKILL),
        _forbidden,
        partial(time.sleep, 60),
        partial(print, "not ours"),
    ]
    started = time.monotonic()
    replies = in_children(actions, seconds=0.5)
    assert time.monotonic() - started < 2
    assert replies == [
        Reply("value"),
        Reply(errno=13),
        Reply(failure="ZeroDivisionError: a bug"),
        Reply(signal=signal.SIGKILL),
        Reply(signal=signal.SIGSYS),
        Reply(failure="no answer in 0.5 seconds"),
        Reply(),
    ]
    assert [reply.why for reply in replies[1:4]] == [
        "Permission denied",
        "ZeroDivisionError: a bug",
        "the kernel ends what tries it (SIGKILL)",
    ]


def test_all_together_end_in_time() -> None:
    started = time.monotonic()
    replies = in_children([partial(time.sleep, 60)] * 40, seconds=0.2)
    assert time.monotonic() - started < 3
    assert replies[0].failure == "no answer in 0.2 seconds"
    assert replies[-1].failure == "there was no time left for it"


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    def start() -> None:
        subprocess.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"], check=False)

    in_children([start], seconds=0.5)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_programs_and_their_statuses() -> None:
    assert run_program("/bin/sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\nerr")
    assert run_program("/bin/sh", "-c", "kill -TERM $$") == (-signal.SIGTERM, "")
    assert attempt(lambda: None).worked


def test_texts_of_programs_are_made_fit_to_be_shown() -> None:
    check = Check.of("name", Finding(State.NO, "a\x1b[2J\n  b" + "c" * 1000, "\x07"))
    assert check.detail.startswith(r"a\x1b[2J bcc")
    assert len(check.detail) == 600
    assert check.mend == r"\x07"
    assert Diagnosis(Path("/"), (check,)).hindrances == ()
