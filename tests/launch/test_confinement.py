"""How start.sh confines a container: mounts, descriptors, keyrings, capabilities, filters, devices.

Attacks from inside are in tests/attacks_host.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, make_container, starter
from tests.support.mounts import mounts_below, read_mountinfo
from tests.support.tools import CHECKOUT, as_user, need, need_root

NAMESPACES = ["userns", "chroot"]
STATUS = ("busybox", "grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status")


def seen(container: Container, runtime: str, *options: str) -> dict[Path, frozenset[str]]:
    """The mount points that a guest sees, with their options."""
    text = container.output(runtime, *options, "cat", "/proc/self/mountinfo")
    return {mount.point: frozenset(mount.options) for mount in read_mountinfo(text)}


def status(container: Container, runtime: str, *options: str) -> list[bytes]:
    return [line.split()[1] for line in container.run(runtime, *options, *STATUS).stdout.splitlines()]


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_the_rootfs_is_the_root_of_the_namespace_without_devices(container: Container, runtime: str) -> None:
    found = seen(container, runtime)
    assert "nodev" in found[Path("/")]
    assert mounts_below(container.directory) == []


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_parts_of_proc_are_read_only_or_hidden(container: Container, runtime: str) -> None:
    found = seen(container, runtime)
    for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"):
        if os.path.exists(f"/proc/{name}"):
            assert "ro" in found[Path("/proc", name)]
    for name in ("kcore", "keys", "timer_list", "interrupts"):
        if os.path.exists(f"/proc/{name}"):
            assert container.output(runtime, "cat", f"/proc/{name}") == b""
    for path in ("/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/fs/cgroup"):
        if os.path.isdir(path):
            assert container.output(runtime, "busybox", "ls", path) == b""


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_a_filter_is_there_and_no_new_privs_only_when_asked_for(container: Container, runtime: str) -> None:
    assert status(container, runtime) == [b"0", b"2"]
    assert status(container, runtime, "--no-new-privs") == [b"1", b"2"]


def test_another_user_with_one_id_gets_a_filter_too(container: Container) -> None:
    assert status(container, "userns", "--user", "joe") == [b"1", b"2"]


def test_root_of_a_user_namespace_can_t_follow_process_1_out(container: Container) -> None:
    need("setpriv")
    done = container.run("userns", "busybox", "ls", "/proc/1/root/")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Permission denied" in done.stderr


def test_descriptors_of_the_caller_are_closed(container: Container, runtime: str) -> None:
    with open("/etc/passwd") as file:
        options = {"pass_fds": (file.fileno(),)}
        guest = f"[ -e /proc/self/fd/{file.fileno()} ] && echo open; true"
        assert container.output(runtime, "sh", "-c", guest, **options) == b""


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_system_v_memory_is_the_container_s_own(container: Container, runtime: str) -> None:
    inside = container.output(runtime, "busybox", "readlink", "/proc/self/ns/ipc").strip().decode()
    assert inside != os.readlink("/proc/self/ns/ipc")


def test_without_a_helper_it_starts_and_says_so(container: Container, runtime: str) -> None:
    helper = container.directory / ".provision/helper"
    helper.write_text("no program for this machine")
    done = container.run(runtime, "true")
    assert done.returncode == 0
    first, *more = done.stderr.decode().splitlines()
    assert first == f"start.sh: no seccomp filter is used, because {helper} can't be executed here"
    # A proot that needs a filter says so, too.
    assert [line for line in more if runtime != "proot" or "can see files of this machine" not in line] == []
    helper.chmod(0o644)
    assert container.run(runtime, "true").stderr == done.stderr
    (container.directory / ".provision/machine").write_text("s390x\n")
    assert container.run(runtime, "true").stderr == done.stderr


# Options


def test_a_capability_can_be_added(container: Container) -> None:
    starter("chroot")

    def bits(*options: str) -> int:
        line = container.output("chroot", *options, "busybox", "grep", "^CapEff", "/proc/self/status")
        return int(line.split()[1], 16)

    usual = bits()
    assert not usual >> 27 & 1, "mknod"
    assert bits("--cap-add", "MKNOD") == usual | 1 << 27
    assert bits("--cap-add", "cap_net_admin", "--cap-add=CAP_MKNOD") == usual | 1 << 27 | 1 << 12
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd:"))
    assert bits("--cap-add", "ALL") == int(line.split()[1], 16)


@pytest.mark.parametrize("name", ["", "MKNOT", "chown fowner", "CAP_", "*", "-all"])
def test_a_capability_that_isn_t_one_is_refused(container: Container, name: str) -> None:
    done = container.run("proot", f"--cap-add={name}", "true")
    assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
    assert b"there is no capability" in done.stderr


def test_privileged_says_what_it_undoes(container: Container) -> None:
    starter("chroot")
    done = container.run("chroot", "--privileged", *STATUS)
    assert (
        done.stderr == b"start.sh: with --privileged, programs inside can read and change everything on this machine\n"
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == [b"0", b"0"]
    text = container.run("chroot", "--privileged", "cat", "/proc/self/mountinfo").stdout
    found = {mount.point: mount.options for mount in read_mountinfo(text)}
    assert "nodev" not in found[Path("/")]
    assert Path("/proc/sys") not in found
    assert "ro" not in found[Path("/sys")]
    before = set(os.listdir("/dev"))
    guest = container.run("chroot", "--privileged", "busybox", "ls", "/dev").stdout.decode().split()
    assert set(guest) >= before & set(os.listdir("/dev")) - {"shm"}  # other tests make loop devices


def test_a_device_is_shown(container: Container, place: Path) -> None:
    starter("chroot")
    device = place / "device"
    os.mknod(device, stat.S_IFCHR | 0o640, os.makedev(1, 5))
    os.chown(device, 0, 29)
    (place / "link").symlink_to("device")
    show = ("busybox", "stat", "-c", "%t:%T %a %g")
    assert (
        container.output("chroot", "--device", f"{place}/link:/dev/sub/zero", *show, "/dev/sub/zero") == b"1:5 640 29\n"
    )
    assert container.output("chroot", "--device", "/dev/zero", "busybox", "head", "-c", "1", "/dev/zero") == b"\0"
    for words in (f"{device}:zero", f"{device}:/etc/device", f"{device}:/dev/../etc/x", f"{place}/nothing:/dev/x"):
        done = container.run("chroot", "--device", words, "true")
        assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
        assert b"--device" in done.stderr


@pytest.mark.parametrize("runtime", ["proot", "userns"])
def test_a_device_is_there_already(container: Container, runtime: str) -> None:
    assert container.output(runtime, "--device", "/dev/zero", "busybox", "head", "-c", "1", "/dev/zero") == b"\0"


# Nothing is written through a link


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "device"])
def test_files_of_etc_are_replaced_and_never_written_to(
    container: Container, place: Path, runtime: str, kind: str
) -> None:
    """The text of the file is as generated when start.sh reads it, and leads elsewhere later."""
    starter(runtime)
    generated, outside = container.directory / ".provision/generated", place / "outside"
    generated.mkdir()
    outside.mkdir()
    (outside / "canary").write_text("old text\n")
    for name in (generated / "hosts", container.rootfs / "etc/hosts"):
        name.write_text("old text\n")
    subprocess.run(["chown", "-R", f"{as_user().get('user', os.geteuid())}", place], check=True)
    hosts, stop = container.rootfs / "etc/hosts", threading.Event()

    def swap() -> None:
        target: dict[str, str | Path] = {
            "symlink": outside / "canary",
            "dangling": outside / "new",
            "directory": outside,
            "device": "/dev/full",
        }
        while not stop.is_set():
            new = hosts.with_name(".swapped")
            new.symlink_to(target[kind])
            os.rename(new, hosts)
            new.write_text("old text\n")
            os.rename(new, hosts)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(20):
            (generated / "hosts").write_text("old text\n")
            container.run(runtime, "true")
    finally:
        stop.set()
        thread.join()
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"canary": "old text\n"}


def test_run_is_not_copied_from_outside(container: Container, place: Path) -> None:
    need_root()
    (place / "secret").mkdir()
    (place / "secret/key").write_text("of the host")
    run, stop = container.rootfs / "run", threading.Event()
    (run / "app").mkdir(parents=True)
    (run / "app/key").write_text("of the guest")

    def swap() -> None:
        while not stop.is_set():
            os.rename(run / "app", place / "aside")
            (run / "app").symlink_to(place / "secret")
            (run / "app").unlink()
            os.rename(place / "aside", run / "app")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = [container.run("chroot", "sh", "-c", "cat /run/app/key").stdout for _ in range(40)]
    finally:
        stop.set()
        thread.join()
    assert set(found) <= {b"of the guest", b""}


@pytest.mark.parametrize("path", ["", ".", ":", ":{bin}", "{bin}:", "{bin}:.:rel"])
def test_programs_of_the_working_directory_are_not_run(
    container: Container, place: Path, runtime: str, path: str
) -> None:
    here = place / "here"
    (here / "rel").mkdir(parents=True)
    for name in ("mount", "unshare", "env", "uname", "readlink", "proot", "chroot", "setpriv", "mktemp", "mv", "cp"):
        for directory in (here, here / "rel"):
            (directory / name).write_text(f"#!/bin/sh\ntouch {place}/open/canary\n")
            (directory / name).chmod(0o755)
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    here.chmod(0o755)
    env = {**starter(runtime)["env"], "PATH": path.format(bin="/usr/bin")}
    container.run(runtime, "true", env=env, cwd=here)
    assert list((place / "open").iterdir()) == []


def test_the_log_is_no_link(container: Container, place: Path) -> None:
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    (place / "canary").write_text("")
    (place / "canary").chmod(0o666)
    (container.directory / ".provision/log").symlink_to(place / "canary")
    env = {**starter("proot")["env"], "TMPDIR": str(place / "tmp")}
    done = container.run("proot", "--detach", "sh", "-c", "echo text", env=env)
    assert done.returncode == 0
    (log,) = (place / "tmp").glob("start.*")
    assert str(log) in done.stderr.decode()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    container.run("", "--stop", by="proot", env=env)
    assert (place / "canary").read_text() == ""


@pytest.mark.parametrize("text", ["\x1b[1m", "\x9b1m", "\x85", "a\x7fb\x01", "tab\tand\nline\n", "\udc9b"])
def test_what_is_printed_has_no_control_characters(container: Container, text: str) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    shown = container.output("proot", "--print", "printf", "%s", raw)
    assert shown.decode("utf-8", "replace").replace("\n", "").replace("\t", "").isprintable() or text == "\udc9b"
    done = subprocess.run([b"sh", b"-c", shown], stdout=subprocess.PIPE, check=True, **starter("proot"))
    assert done.stdout == raw


@pytest.mark.parametrize("text", ["\x1b[1m", "\x9b1m", "é\x85", "\udc9b"])
def test_messages_have_no_control_characters(container: Container, text: str) -> None:
    done = container.run("proot", b"--user=" + text.encode("utf-8", "surrogateescape"), "true")
    assert b"no user" in done.stderr
    assert done.stderr.decode().rstrip("\n").isprintable()


def test_a_rootfs_below_odd_names_and_links_is_entered(place: Path) -> None:
    starter("chroot")
    odd = place / "a b\\040\t'c\n#"
    odd.mkdir()
    container = make_container(odd / "container")
    (place / "link").symlink_to(odd)
    linked = Container(place / "link/container")
    for target in (linked, container):
        bind = f"{target.directory}:/x y/z"
        assert b"start.sh\n" in target.output("chroot", "--bind", bind, "busybox", "ls", "/x y/z")


# What changes between the look at a path and its use, as if a guest had been fast enough

RACE = """
set -fu
newline='
'
LC_ALL=C rootfs=$1 real_rootfs='' stage='' mount_words=true ephemeral=yes
. "$2/text.sh"; . "$2/mounts.sh"; eval "$(sed "$5" "$2/paths.sh")"
fail() { printf '%s\\n' "$1" >&2; exit 125; }
problem="can't"
resolve() { resolved=/dir/place; }
source=$3
[ ! -f "$4" ] && enter /dir/place "can't" || { file=place resolved=/dir && bind_opened 8<"$rootfs/dir/place"; }
echo went on
"""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", ["directory", "file", "directory, in a shell whose test has no -ef"])
def test_what_turns_into_a_link_meanwhile_is_noticed(place: Path, shell: str, kind: str) -> None:
    need(*SHELLS[shell][:1])
    rootfs, outside = place / "rootfs", place / "outside"
    (rootfs / "dir").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").touch()
    target = outside / "file" if kind == "file" else outside
    (rootfs / "dir/place").symlink_to(target)
    changed = "s/ -ef / -none /" if "-ef" in kind else ""
    words: list[str | Path] = [
        *SHELLS[shell],
        "-c",
        RACE,
        "sh",
        rootfs,
        CHECKOUT / "scripts/start",
        "-",
        target,
        changed,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 125, done
    assert "went on" not in done.stdout
    assert ("meanwhile" if kind == "file" else "changes while it is entered") in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("changed", ["", "s/ -ef / -none /"], ids=["-ef", "no -ef"])
def test_a_directory_that_is_in_the_rootfs_is_entered(place: Path, shell: str, changed: str) -> None:
    need(*SHELLS[shell][:1])
    (place / "rootfs/dir").mkdir(parents=True)
    (place / "link").symlink_to("rootfs")
    words: list[str | Path] = [
        *SHELLS[shell],
        "-c",
        RACE,
        "sh",
        place / "link",
        CHECKOUT / "scripts/start",
        "-",
        place,
        changed,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
    assert (place / "rootfs/dir/place").is_dir()


@pytest.mark.parametrize("text", ["a\u202ec", "a\u2066c", "a\u200fc", "a\u061cc", "a\u2028c", "a\ufeffc"])
def test_messages_show_no_character_that_turns_the_direction_of_text(container: Container, text: str) -> None:
    done = container.run("proot", "--runtime", text)
    assert (done.returncode, done.stderr) == (
        125,
        b"start.sh: unknown runtime a?c: it is auto, proot, chroot or userns\n",
    )


def test_messages_show_the_letters_of_all_languages(container: Container) -> None:
    done = container.run("proot", "--runtime", "é日本א\N{GRINNING FACE}")
    assert "é日本א\N{GRINNING FACE}" in done.stderr.decode()


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_a_capability_that_opens_the_way_out_is_said(container: Container, runtime: str) -> None:
    need("setpriv")
    done = container.run(runtime, "--cap-add", "sys_ptrace", "busybox", "test", "-d", "/proc/1/root/")
    assert done.returncode == 0
    assert done.stderr.decode() == (
        "start.sh: with --cap-add SYS_PTRACE, root inside can read and change this machine's files, by /proc/1/root\n"
    )


def test_descriptors_up_to_9_are_closed_without_a_helper(container: Container, runtime: str) -> None:
    (container.directory / ".provision/helper").unlink()
    (container.directory / ".provision/machine").unlink()
    guest = "for fd in 3 4 5 6 7 8 9; do readlink /proc/self/fd/$fd; done"
    with open("/etc/passwd") as file:

        def redirect() -> None:
            for descriptor in range(3, 10):
                os.dup2(file.fileno(), descriptor)

        done = container.run(runtime, "sh", "-c", guest, preexec_fn=redirect, close_fds=False)
    assert done.returncode in (0, 1)
    assert b"passwd" not in done.stdout


def test_root_with_one_id_is_confined_without_the_filter_that_emulates_root(container: Container) -> None:
    (container.directory / ".provision/seccomp.bpf").unlink()
    assert status(container, "userns") == [b"0", b"2"]
