"""The jail: each of Android's restrictions seen from inside, and the main job under all of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.jail import (
    ENVIRONMENT,
    HOME,
    PREFIX,
    UID,
    UNREADABLE,
    Allowance,
    Jail,
    provision_in_jail,
    system_calls,
)
from tests.support.tools import need_root

# Evaluates its arguments; the words in them are defined here.
pytestmark = pytest.mark.slow

EVALUATE = """
import ctypes, errno, json, os, platform, shutil, stat, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *map(argument, arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "ok"

def argument(value):
    return ctypes.c_long(value) if isinstance(value, int) else value

def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip()

NUMBERS = json.loads(sys.argv[1])
open("file", "w").close()
print(json.dumps([eval(expression) for expression in sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def jail(lasting_place: Path) -> Jail:
    return Jail(lasting_place)


@pytest.fixture(scope="module")
def killing_jail(lasting_place: Path) -> Jail:
    place = lasting_place / "killing"
    place.mkdir()
    return Jail(place, "sigsys")


def evaluation(*expressions: str) -> list[str]:
    """The command line that evaluates `expressions` in a Python and prints a JSON list."""
    return ["python3", "-c", EVALUATE, json.dumps(system_calls()), *expressions]


def inside(jail: Jail, expression: str) -> object:
    done = jail.run(evaluation(expression))
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)[0]


# What the jail changes: an expression, and its value inside. Outside, root gets another value from each.
CHANGED = {
    "link": ("call('link', b'file', b'second')", "EACCES"),
    "linkat": ("call('linkat', -100, b'file', -100, b'third', 0)", "EACCES"),
    "ln": ("output('sh', '-c', 'ln file fourth 2>&1; echo $?')[-19:]", "Permission denied\n1"),
    "chown to others": ("call('chown', b'file', 1, -1)", "EPERM"),
    "chgrp to others": ("call('chown', b'file', -1, 1)", "EPERM"),
    "lchown": ("call('lchown', b'file', 1, 1)", "EPERM"),
    "fchown": ("call('fchown', os.open('file', os.O_RDONLY), 1, 1)", "EPERM"),
    "fchownat": ("call('fchownat', -100, b'file', 1, -1, 0)", "EPERM"),
    "fchownat, the group": ("call('fchownat', -100, b'file', -1, 1, 0)", "EPERM"),
    "character device": ("attempt(os.mknod, 'null', stat.S_IFCHR | 0o666, os.makedev(1, 3))", "EPERM"),
    "block device": ("attempt(os.mknod, 'loop', stat.S_IFBLK | 0o666, os.makedev(7, 0))", "EPERM"),
    "mount": ("call('mount', b'none', b'.', b'nosuchfs', 0, 0)", "EPERM"),
    "umount2": ("call('umount2', b'.', 0)", "EPERM"),
    "unshare": ("call('unshare', 0x04000000)", "EPERM"),
    "clone a user namespace": ("call('clone', 0x10000000 | 0x800, 0, 0, 0, 0)", "EPERM"),
    "setns": ("call('setns', -1, 0)", "EPERM"),
    "chroot": ("attempt(os.chroot, '/')", "EPERM"),
    "pivot_root": ("call('pivot_root', b'/nowhere', b'/nowhere')", "EPERM"),
    **{
        name: (f"attempt(os.{name}, *[os.get{name[-3:]}()] * {count})", "EPERM")
        for name, count in {
            "setuid": 1,
            "setgid": 1,
            "seteuid": 1,
            "setegid": 1,
            "setreuid": 2,
            "setregid": 2,
            "setresuid": 3,
            "setresgid": 3,
        }.items()
    },
    "setfsuid": ("call('setfsuid', os.getuid())", "EPERM"),
    "setfsgid": ("call('setfsgid', os.getgid())", "EPERM"),
    "setgroups": ("attempt(os.setgroups, [])", "EPERM"),
    "openat2": ("call('openat2', -100, b'.', (ctypes.c_ulonglong * 3)(), 24)", "ENOSYS"),
    "statx": ("call('statx', -100, b'.', 0, 0, (ctypes.c_char * 256)())", "ENOSYS"),
    "clone3": ("call('clone3', 0, 0)", "ENOSYS"),
    "faccessat2": ("call('faccessat2', -100, b'.', 0, 0)", "ENOSYS"),
    **{
        name: (f"call('{name}', {arguments})", "ENOSYS")
        for name, arguments in {
            "msgget": "77, 0",
            "msgsnd": "-1, 0, 0, 0",
            "msgrcv": "-1, 0, 0, 0, 0",
            "msgctl": "-1, 2, 0",
            "semget": "77, 1, 0",
            "semop": "-1, 0, 1",
            "semtimedop": "-1, 0, 1, 0",
            "semctl": "-1, 0, 0, 0",
            "shmget": "77, 1, 0",
            "shmat": "-1, 0, 0",
            "shmdt": "1",
            "shmctl": "-1, 2, 0",
        }.items()
    },
    **{f"/proc/{name}": (f"attempt(open, '/proc/{name}')", "EACCES") for name in UNREADABLE},
    **{f"{path} can't be listed": (f"attempt(os.listdir, '{path}')", "EACCES") for path in ("/", "/dev")},
    "/data can't be listed": ("attempt(os.listdir, '/data')", "EACCES"),
    **{
        f"no {path}": (f"attempt(os.stat, '{path}')", "ENOENT")
        for path in ("/tmp", "/usr/bin/env", "/etc/resolv.conf", "/etc/passwd", "/dev/shm", "/dev/fd", "/var")
    },
    "the shell of #!/bin/sh": ("output('/bin/sh', '-c', 'echo $KSH_VERSION')[:11]", "@(#)MIRBSD "),
    "the shell of Termux": ("shutil.which('sh')", f"{PREFIX}/bin/sh"),
    "no programs but Termux's": ("shutil.which('mount') or shutil.which('perl')", None),
    "umask": ("output('sh', '-c', 'umask')", "0077"),
    "the preloaded library": ("'libtermux-exec.so' in output('grep', 'termux', '/proc/self/maps')", True),
    "no hard links in Python": ("hasattr(os, 'link')", False),
    "no extended attributes in Python": (
        "[n for n in ('getxattr', 'setxattr', 'listxattr', 'removexattr') if hasattr(os, n)]",
        [],
    ),
    "sys.platform": ("sys.platform", "android"),
    "platform.system()": ("platform.system()", "Android"),
    "the user": ("[os.getuid(), os.getgid()]", [UID, UID]),
    "no capabilities": ("output('grep', '-c', 'Cap...:.0000000000000000$', '/proc/self/status')", "5"),
    "the machine's name": ("os.uname().nodename", "localhost"),
    # Last: where it works, others no longer do.
    "unshare a user namespace": ("call('unshare', 0x10000000)", "EPERM"),
}


@pytest.mark.parametrize(("expression", "expected"), CHANGED.values(), ids=CHANGED)
def test_a_restriction_is_there(jail: Jail, expression: str, expected: object) -> None:
    assert inside(jail, expression) == expected


def test_outside_root_meets_none_of_them(tmp_path: Path) -> None:
    need_root()
    command = [sys.executable, *evaluation(*(expression for expression, _ in CHANGED.values()))[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = zip(CHANGED, json.loads(done.stdout), strict=True)
    assert [name for name, value in values if value == CHANGED[name][1]] == []


# What an app may do, here as well.
ALLOWED = {
    "chown to itself": ("attempt(os.chown, 'file', os.getuid(), os.getgid())", "ok"),
    "chown that changes nothing": ("attempt(os.chown, 'file', -1, -1)", "ok"),
    "symlinks": ("attempt(os.symlink, 'file', 'symlink')", "ok"),
    "FIFOs": ("attempt(os.mkfifo, 'fifo')", "ok"),
    "setuid bits": ("attempt(os.chmod, 'file', 0o4755)", "ok"),
    "temporary files": ("attempt(open, os.environ['TMPDIR'] + '/file', 'w')", "ok"),
    "installing programs": ("attempt(open, os.environ['PREFIX'] + '/bin/new', 'w')", "ok"),
    "other files of /proc": ("attempt(open, '/proc/self/status')", "ok"),
    "terminals": ("attempt(os.openpty)", "ok"),
    "null": ("attempt(open, '/dev/null', 'w')", "ok"),
}


@pytest.mark.parametrize(("expression", "expected"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_works(jail: Jail, expression: str, expected: object) -> None:
    assert inside(jail, expression) == expected


BLOCKED = [
    name
    for name in CHANGED
    if name.startswith(("mount", "umount", "unshare", "clone a", "setns", "chroot", "pivot_root", "set"))
]


@pytest.mark.parametrize("name", BLOCKED)
def test_in_the_second_mode_a_blocked_call_ends_the_process(killing_jail: Jail, name: str) -> None:
    done = killing_jail.run(evaluation(CHANGED[name][0]))
    assert (done.returncode, done.stdout) == (128 + signal.SIGSYS, "")


@pytest.mark.parametrize("name", ["link", "chown to others", "character device", "statx", "semget"])
def test_in_the_second_mode_other_calls_fail_as_in_the_first(killing_jail: Jail, name: str) -> None:
    expression, expected = CHANGED[name]
    assert inside(killing_jail, expression) == expected


def test_the_environment_is_termux_s_and_what_is_added(jail: Jail) -> None:
    done = jail.run(["env", "-0"], env={"ADDED": "one\ntwo"})
    seen = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    python = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH"}
    harness = {"PROOT_NO_SECCOMP", "PROVISION_TEST_SESSION", "PROVISION_TEST_COMPLETE", "PROVISION_TEST_PROOT", "PWD"}
    assert {name: value for name, value in seen.items() if name not in harness | python} == {
        **ENVIRONMENT,
        "ADDED": "one\ntwo",
    }


def test_files_directories_input_and_exit_statuses_pass(jail: Jail) -> None:
    (jail.home / "script").write_text("cat; pwd; exit 7\n")
    (jail.home / "script").chmod(0o755)
    done = jail.run(["sh", f"{HOME}/script"], cwd=PREFIX, input="from outside\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"from outside\n{PREFIX}\n", "")
    done = jail.run(["sh", "-c", "echo made >made; kill -TERM $$"])
    assert done.returncode == 128 + signal.SIGTERM
    assert (jail.home / "made").read_text() == "made\n"


def test_what_debian_s_proot_needs_is_there_when_allowed(jail: Jail) -> None:
    expressions = ["attempt(open, '/tmp/file', 'w')", "call('link', b'file', b'allowed')"]
    choices: list[tuple[Allowance, ...]] = [(), ("tmp",), ("links",), ("tmp", "links")]
    replies = {allow: json.loads(jail.run(evaluation(*expressions), allow=allow).stdout) for allow in choices}
    termux = "PROVISION_TEST_PROOT" in os.environ
    assert replies == {
        (): ["ENOENT", "EACCES"],
        ("tmp",): ["ENOENT" if termux else "ok", "EACCES"],
        ("links",): ["ENOENT", "EACCES" if termux else "ok"],
        ("tmp", "links"): ["ENOENT", "EACCES"] if termux else ["ok", "EEXIST"],
    }


# The main job


@pytest.fixture(scope="module")
def phone(debian: str, killing_jail: Jail) -> Jail:
    """The jail that is like a phone, with a Debian in $HOME/debian."""
    provision_in_jail(killing_jail, debian)
    return killing_jail


def test_the_main_job_makes_a_debian(phone: Jail) -> None:
    directory = phone.home / "debian"
    assert (directory / "start.sh").read_text().startswith(f"#!{PREFIX}/bin/sh")
    modes = {name: (directory / name).stat().st_mode & 0o7777 for name in ("start.sh", "rootfs", "rootfs/tmp")}
    assert modes == {"start.sh": 0o755, "rootfs": 0o755, "rootfs/tmp": 0o1777}, "the umask is 077"
    assert list((phone.prefix / "tmp").iterdir()) == []


def test_proot_runs_it(phone: Jail) -> None:
    proot = ["env", "-u", "LD_PRELOAD", "proot", "-0", "-r", f"{HOME}/debian/rootfs", "-w", "/"]
    done = phone.run(
        [*proot, "/bin/sh", "-c", "/usr/bin/id -u; /bin/cat /etc/debian_version"],
        # Built for another prefix, Termux's proot doesn't know its place by itself.
        env={"PROOT_TMP_DIR": f"{PREFIX}/tmp"},
        allow=["tmp"],
    )
    assert (done.returncode, done.stdout[:5], done.stderr) == (0, "0\n12.", "")


def test_start_sh_runs_it_and_gives_its_status(phone: Jail) -> None:
    done = phone.run(["debian/start.sh", "cat", "/etc/os-release"], allow=["tmp"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (phone.home / "debian/rootfs/etc/os-release").read_text()
    assert phone.run(["debian/start.sh", "sh", "-c", "exit 3"], allow=["tmp"]).returncode == 3


def test_apt_installs_a_package_with_a_daemon(phone: Jail) -> None:
    install = "apt-get update >/dev/null && apt-get install --yes --no-install-recommends dbus openssh-server"
    settings = ["--env", "DEBIAN_FRONTEND=noninteractive"]
    done = phone.run(["debian/start.sh", *settings, "sh", "-c", install], allow=["tmp", "links"])
    assert done.returncode == 0, done.stdout + done.stderr
    audit = phone.run(["debian/start.sh", "dpkg", "--audit"], allow=["tmp"])
    assert (audit.returncode, audit.stdout) == (0, "")
    assert "\nsshd:" in (phone.home / "debian/rootfs/etc/passwd").read_text()


def test_files_of_proc_that_cannot_be_read_are_stood_in_for(phone: Jail) -> None:
    guest = "for name in stat loadavg uptime version vmstat; do cat /proc/$name || exit 1; echo ---; done"
    outputs = []
    for _ in range(2):
        done = phone.run(["debian/start.sh", "sh", "-c", guest], allow=["tmp"])
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(done.stdout.split("---\n"))
        time.sleep(0.05)
    assert [len(files) for files in outputs] == [6, 6]
    stat, loadavg, uptime, version, vmstat, _ = outputs[0]
    processors = int(Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2]) + 1
    assert re.fullmatch(rf"cpu ( \d+){{10}}\n(cpu\d+( \d+){{10}}\n){{{processors}}}intr 0\n(\w+ \d+\n){{5}}", stat)
    (started,) = re.findall(r"btime (\d+)", Path("/proc/stat").read_text())
    assert abs(int(re.findall(r"btime (\d+)", stat)[0]) - int(started)) <= 2
    assert re.fullmatch(r"0.00 0.00 0.00 1/1 \d+\n", loadavg)
    now = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 <= now - float(uptime.split()[0]) < 300
    assert float(outputs[1][2].split()[0]) > float(uptime.split()[0])
    assert version.startswith(f"Linux version {os.uname().release} ")
    assert re.search(r"^nr_free_pages \d+$", vmstat, re.MULTILINE)
    assert list((phone.prefix / "tmp").iterdir()) == []


def test_android_s_directories_are_bound_and_termux_s_home_when_asked(phone: Jail) -> None:
    (phone.home / "mine").write_text("content\n")
    seen = ["sh", "-c", f"test -x /system/bin/sh && cat {HOME}/mine"]
    done = phone.run(["debian/start.sh", "--termux", *seen], allow=["tmp"])
    assert (done.returncode, done.stdout) == (0, "content\n")
    missing = "start.sh: not bound, because it is missing or can't be read (run termux-setup-storage):"
    assert done.stderr == f"{missing} /sdcard\n{missing} /storage\n"
    done = phone.run(["debian/start.sh", *seen], allow=["tmp"])
    assert done.returncode == 1
    assert "No such file" in done.stderr


@pytest.mark.parametrize("guest", ["kill -SYS $$", "kill -SEGV $$", "exit 255"])
def test_a_failure_of_the_guest_is_not_blamed_on_seccomp(phone: Jail, guest: str) -> None:
    done = phone.run(["env", "-u", "PROOT_NO_SECCOMP", "debian/start.sh", "sh", "-c", guest], allow=["tmp"])
    assert done.returncode != 0
    assert "PROOT_NO_SECCOMP" not in done.stderr


def test_termux_s_loader_is_named_to_proot(phone: Jail) -> None:
    loader = phone.prefix / "libexec/proot/loader"
    loader.parent.mkdir(parents=True)
    loader.write_text("")
    loader.chmod(0o755)
    shown = phone.run(["debian/start.sh", "--print", "true"], allow=["tmp"]).stdout
    loader.unlink()
    exported = shown.partition("; /")[0].split()
    assert f"PROOT_LOADER={PREFIX}/libexec/proot/loader" in exported
    assert "PROOT_LOADER_32" not in shown


def test_where_blocked_calls_only_fail_it_is_the_same(jail: Jail, debian: str) -> None:
    provision_in_jail(jail, debian)
    done = jail.run(["debian/start.sh", "id", "-u"], allow=["tmp"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
