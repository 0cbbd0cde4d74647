"""Root in a user namespace: a filter that emulates what one id can't do, more ids, or neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import Container, make_container, starter, static_busybox
from tests.support.tools import as_user, need, need_root, provision, user_id

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


def test_owners_seem_to_change_in_bwrap_s_filter(container: Container) -> None:
    need("bwrap")
    without_helper(container)
    assert container.output("userns", *CHOWN) == b"0:0\n"


def test_of_users_other_than_root_nothing_is_emulated(container: Container) -> None:
    (container.rootfs / "tmp").chmod(0o777)
    done = container.run("userns", "--user", "joe", *CHOWN)
    assert done.returncode == 1
    assert b"Invalid argument" in done.stderr


def test_without_a_filter_one_id_is_all_there_is(container: Container, place: Path) -> None:
    (container.directory / ".provision/seccomp.bpf").unlink()
    env = path_without(place, "newuidmap")
    done = container.run("userns", *CHOWN, env=env)
    assert done.returncode == 1
    assert b"Invalid argument" in done.stderr


def test_a_setpriv_that_can_install_it_comes_first(container: Container, place: Path) -> None:
    if not os.access(sys.executable, os.X_OK) or subprocess.run([sys.executable, "-c", ""], **as_user()).returncode:
        pytest.skip("this Python is closed to users")
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


def test_apt_installs_daemons_with_owners_of_their_own(debian: str, place: Path) -> None:
    starter("userns")
    provisioned = provision(debian, place / "debian", **as_user())
    assert provisioned.returncode == 0, provisioned.stderr
    container = Container(place / "debian")
    update = container.run("userns", "apt-get", "update", timeout=120)
    assert update.returncode == 0, update.stderr
    settings = ["--env", "DEBIAN_FRONTEND=noninteractive"]
    install = ("apt-get", "install", "--yes", "--no-install-recommends", "dbus", "openssh-server")
    done = container.run("userns", *settings, *install, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert container.output("userns", "dpkg", "--audit") == b""
    users = (container.rootfs / "etc/passwd").read_text()
    assert "\nsshd:" in users
    assert "\nmessagebus:" in users
