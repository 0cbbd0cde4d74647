"""Root in a user namespace: a filter that emulates what one id can't do, more ids, or neither."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provisioner.image.platform import host_platform
from provisioner.launch import bpf
from provisioner.launch.helper_flags import NO_NEW_PRIVS
from provisioner.launch.static_helper import static_helper
from provisioner.launch.syscalls import abis
from tests.support.containers import Container, make_container, starter, static_busybox
from tests.support.tools import as_user, need, need_bwrap, need_root, provision, provision_command, unavailable, user_id

CHOWN = ("sh", "-c", "touch /tmp/file && busybox chown 5:6 /tmp/file && busybox stat -c %u:%g /tmp/file")

# A setpriv of util-linux 2.40, as far as start.sh uses it.
SETPRIV = f"""\
#!{sys.executable}
import ctypes, os, sys
if sys.argv[1] == "--help":
    print(" --seccomp-filter <file>     load seccomp filter from file")
    sys.exit()
option, file, *command = sys.argv[1:]
if option == "--bounding-set":
    os.execv(command[2], command[2:])
assert option == "--seccomp-filter"
filter_ = open(file, "rb").read()
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
libc = ctypes.CDLL(None)
assert libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0
assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(Program(len(filter_) // 8, filter_))) == 0
os.execv(command[0], command)
"""


@pytest.fixture
def container(place: Path) -> Container:
    starter("userns")
    return make_container(place / "container")


def path_without(place: Path, *missing: str) -> dict[str, str]:
    """An environment whose PATH has all programs of this machine but some."""
    programs = place / "programs"
    programs.mkdir()
    for directory in ("/usr/sbin", "/usr/bin"):
        for program in Path(directory).iterdir():
            if program.name not in missing and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    return {**as_user()["env"], "PATH": str(programs), "PROVISION_TEST_SBIN": ""}


def without_helper(container: Container) -> None:
    """As where there is none for the machine."""
    for name in ("helper", "machine"):
        (container.directory / ".provision" / name).unlink()


def test_owners_seem_to_change_in_the_helper_s_filter(container: Container, place: Path) -> None:
    env = path_without(place, "bwrap")
    assert container.output("userns", *CHOWN, env=env) == b"0:0\n"
    assert b"--ids" not in container.run("userns", "false", env=env).stderr


def test_owners_seem_to_change_in_bwrap_s_filter(container: Container) -> None:
    need_bwrap()
    without_helper(container)
    assert container.output("userns", *CHOWN) == b"0:0\n"


def test_of_users_other_than_root_nothing_is_emulated(container: Container) -> None:
    (container.rootfs / "tmp").chmod(0o777)
    done = container.run("userns", "--user", "joe", *CHOWN)
    assert done.returncode == 1
    assert b"Invalid argument" in done.stderr


def test_without_a_filter_one_id_is_all_there_is(container: Container) -> None:
    (container.directory / ".provision/seccomp.bpf").unlink()
    done = container.run("userns", *CHOWN)
    assert done.returncode == 1
    assert b"Invalid argument" in done.stderr
    assert b"--ids many" in done.stderr
    assert container.output("userns", "true") == b""
    assert b"--ids" not in container.run("userns", "--user", "joe", "false").stderr
    assert b"--ids" not in container.run("userns", "sh", "-c", "kill -s TERM $$").stderr


def test_a_setpriv_that_can_install_it_comes_first(container: Container, place: Path) -> None:
    if not os.access(sys.executable, os.X_OK) or subprocess.run([sys.executable, "-c", ""], **as_user()).returncode:
        unavailable("this Python is closed to users")
    without_helper(container)
    env = path_without(place, "bwrap", "setpriv", "newuidmap")
    (place / "programs/setpriv").write_text(SETPRIV)
    (place / "programs/setpriv").chmod(0o755)
    assert container.output("userns", *CHOWN, env=env) == b"0:0\n"


@pytest.mark.parametrize("tools", ["a mount that takes lists", "busybox's"])
def test_the_host_s_proc_is_shown_where_the_kernel_refuses_a_new_one(
    container: Container, place: Path, tools: str
) -> None:
    """As inside of other containers, which cover files of /proc."""
    need_root()
    need("setpriv")
    env = as_user()["env"]
    if tools == "busybox's":
        env = path_without(place, "mount")
        (place / "programs/mount").symlink_to(static_busybox())
    become = f"setpriv --reuid {user_id()} --regid {user_id()} --clear-groups"
    outer = ["unshare", "--mount", "sh", "-c", f'mount -o bind /dev/null /proc/keys && exec {become} "$@"', "sh"]
    guest = "cat /proc/sys/kernel/ostype; test -d /sys/class; echo $?; touch /proc/sys/kernel/x 2>&1"
    done = container.run("userns", "sh", "-c", guest, shell=outer, by="chroot", env=env)
    assert done.stderr == b""
    assert done.stdout.startswith(b"Linux\n0\ntouch: /proc/sys/kernel/x: "), done


# Run the words after a user's number as that user, where no user namespace can be made.
NO_NAMESPACES = """
import ctypes, os, sys
number, *command = sys.argv[1:]
parent, child = os.pipe(), os.pipe()
if pid := os.fork():
    os.read(parent[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("0 0 4294967295")
    os.write(child[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(parent[1], b"x")
os.read(child[0], 1)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.setgroups([])
os.setgid(int(number))
os.setuid(int(number))
os.execvp(command[0], command)
"""


@pytest.fixture(params=["none can be made", "they allow nothing"])
def without_namespaces(request: pytest.FixtureRequest, place: Path) -> list[str | Path]:
    """Words before a command that runs as the user, where the kernel refuses what Ubuntu's AppArmor refuses."""
    need_root()
    need("setpriv", "proot")
    if request.param == "none can be made":
        return [sys.executable, "-c", NO_NAMESPACES, str(user_id())]
    # As kernel.apparmor_restrict_unprivileged_userns: they are made, and their root has no capability.
    rules = [bpf.Rule(bpf.refuse(errno.EACCES), ("mount", "umount2", "move_mount", "mount_setattr", "sethostname"))]
    (place / "filter").write_bytes(bpf.program(rules, [abi for abi in abis() if abi.little_endian]))
    (place / "helper").write_bytes(static_helper(host_platform()))
    (place / "helper").chmod(0o755)
    become = ["setpriv", "--reuid", str(user_id()), "--regid", str(user_id()), "--clear-groups"]
    return [*become, place / "helper", place / "filter", str(NO_NEW_PRIVS)]


def test_where_user_namespaces_are_refused_proot_is_used(
    container: Container, without_namespaces: list[str | Path]
) -> None:
    options: dict[str, Any] = {"shell": without_namespaces, "by": "chroot", "env": as_user()["env"]}
    assert b"TracerPid:\t0\n" not in container.output("", "cat", "/proc/self/status", **options)
    done = container.run("userns", "true", **options)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"start.sh: user namespaces don't work here; --runtime proot may")
    assert done.stderr.count(b"\n") == 1


def test_doctor_says_that_they_are_refused(place: Path, without_namespaces: list[str | Path]) -> None:
    command, options = provision_command("doctor", "--json", cache=place / "cache", **as_user())
    for name in ("user", "group", "extra_groups"):
        options.pop(name)
    done = subprocess.run([*without_namespaces, *command], check=False, **options)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["userns"]["state"] == "no"
    assert "start.sh uses proot" in found["userns"]["detail"]
    assert found["proot"]["state"] == "ok"
    if str(NO_NAMESPACES) in map(str, without_namespaces):
        assert "user.max_user_namespaces=0" in found["userns"]["detail"]
        assert "sysctl -w user.max_user_namespaces=" in found["userns"]["fix"]


def test_apt_installs_daemons_with_owners_of_their_own(debian: str, place: Path) -> None:
    starter("userns")
    provision(debian, place / "debian", **as_user(), status=0)
    container = Container(place / "debian")
    update = container.run("userns", "apt-get", "update", timeout=120)
    assert update.returncode == 0, update.stderr
    settings = ["--env", "DEBIAN_FRONTEND=noninteractive"]
    install = ("apt-get", "install", "--yes", "--no-install-recommends", "dbus", "gosu", "openssh-server")
    done = container.run("userns", *settings, *install, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert container.output("userns", "dpkg", "--audit") == b""
    users = (container.rootfs / "etc/passwd").read_text()
    assert "\nsshd:" in users
    assert "\nmessagebus:" in users
    # The entrypoint of docker's postgres, redis and others.
    entrypoint = container.rootfs / "docker-entrypoint.sh"
    entrypoint.write_text('#!/bin/bash\nif [ "$(id -u)" = 0 ]; then exec gosu nobody "$0" "$@"; fi\nexec "$@"\n')
    entrypoint.chmod(0o755)
    done = container.run("userns", "/docker-entrypoint.sh", "id")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"--ids many" in done.stderr
