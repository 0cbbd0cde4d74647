"""Android's restrictions for apps such as Termux: what they may do, and which files they see.

A `Jail` is a directory that stands for /data/data/com.termux/files. `run` starts a program there in namespaces made by
bubblewrap, under a seccomp filter, as an unprivileged user.

What differs from a phone: the programs are this machine's and find glibc in /lib; LANG is unset, since glibc has no
locales here; Python finds its packages by PYTHONPATH; PROOT_NO_SECCOMP=1 is set, since an error of the filter comes
before proot's trace. Shared storage, supplementary groups and the limit on processes are absent. Whatever outlives the
program ends with it.

PROVISION_TEST_PROOT may name a build of Termux's proot, which takes the place of Debian's.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from provisioner.launch.bpf import TRAP, Abi, Argument, Rule, program, refuse
from tests.support.libseccomp import native_arch, number
from tests.support.tools import as_user, find_program, need, need_bwrap, own, run, user_python

FILES = "/data/data/com.termux/files"
PREFIX, HOME = f"{FILES}/usr", f"{FILES}/home"
"""Termux's directories, by their paths in the jail."""
UID = 10123
"""The user in the jail: u0_a123."""

ENVIRONMENT = {
    "HOME": HOME,
    "PREFIX": PREFIX,
    "TMPDIR": f"{PREFIX}/tmp",
    "PATH": f"{PREFIX}/bin",
    "SHELL": f"{PREFIX}/bin/bash",
    "LD_PRELOAD": f"{PREFIX}/lib/libtermux-exec.so",
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
    "TERMUX_VERSION": "0.118.3",
    "TERMUX__PREFIX": PREFIX,
    "TERMUX__HOME": HOME,
    "ANDROID_ROOT": "/system",
    "ANDROID_DATA": "/data",
    "EXTERNAL_STORAGE": "/sdcard",
}
"""The environment variables of Termux."""

UNREADABLE = (
    *("stat", "loadavg", "uptime", "version", "vmstat"),
    *("sys/kernel/overflowuid", "sys/kernel/overflowgid", "sys/kernel/cap_last_cap"),
    "sys/fs/inotify/max_user_watches",
)
"""Files of /proc that apps can't read."""

Allowance = Literal["tmp", "links"]

# Calls for which Android's filter for apps ends the process, and those that SELinux refuses.
_BLOCKED = (
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups"),
    *("setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32", "setfsuid32", "setfsgid32"),
    *("setgroups32", "mount", "umount2", "chroot", "pivot_root", "unshare", "setns"),
)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
_NAMESPACES = 0x7E020000
# Calls that phones' kernels lack: System V IPC is left out there, the others are too new. What newer ones Debian's
# proot doesn't translate would show a guest the host's tree.
_MISSING = (
    *("msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop", "semctl"),
    *("shmget", "shmat", "shmdt", "shmctl", "ipc", "statx", "openat2", "clone3", "faccessat2", "fchmodat2"),
)

# The Debian packages with the programs of Termux, and proot.
_PACKAGES = (
    *("bash", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "mawk", "proot", "sed", "tar"),
    *("util-linux", "zstd"),
)
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITECUSTOMIZE = '''\
"""Make this Python look like Termux's."""

import os
import platform
import sys

for name in ("link", "getxattr", "setxattr", "listxattr", "removexattr"):
    delattr(os, name)
sys.platform = "android"
sys.getandroidapilevel = lambda: 24
platform.system = lambda: "Android"
platform.android_ver = lambda *_: ("14", 34, "Google", "phone", "phone", False)
'''


class Jail:
    """An app's private directory below `directory`, and the restrictions of programs that run there.

    Blocked system calls fail with EPERM in the mode "errno"; in the mode "sigsys" they end the process, as on a phone.
    `home` and `prefix` are Termux's directories by their paths on this machine.
    """

    def __init__(self, directory: Path, mode: Literal["errno", "sigsys"] = "errno") -> None:
        need_bwrap()
        need("dpkg-query", "mksh", "proot", "zstd")
        self._files = directory / "files"
        self.home, self.prefix = self._files / "home", self._files / "usr"
        self._filters = directory / "filters"
        self._unreadable = directory / "unreadable"
        _furnish(self.prefix)
        self.home.mkdir()
        self._filters.mkdir()
        for name, links in {"filter": False, "links": True}.items():
            (self._filters / name).write_bytes(program(_rules(mode, links), [Abi(native_arch(), system_calls())]))
        self._unreadable.touch()
        for path in directory.rglob("*"):
            if not path.is_symlink():
                own(path)
        self.home.chmod(0o700)
        self._unreadable.chmod(0)

    def run(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: str = HOME,
        allow: Collection[Allowance] = (),
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program and return the result. The named options are those of `command`, all others of subprocess.run.

        A program that a signal ended has the exit status 128 plus the signal's number.
        """
        argv, ours = self.command(argv, env, cwd, allow)
        pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False, "timeout": 240}
        stdin = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        return subprocess.run(argv, **{**pipes, **stdin, **ours, **options})

    def command(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: str = HOME,
        allow: Collection[Allowance] = (),
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the command line that runs `argv` in the jail, and its options for subprocess.run or Popen.

        `env` is added to Termux's environment; `cwd` is a path in the jail. `allow` lists what Debian's proot needs:
        "tmp", a /tmp, for everything, and "links", hard links, for programs such as dpkg, since it has no
        --link2symlink. With Termux's proot it is ignored.
        """
        allowed = () if "PROVISION_TEST_PROOT" in os.environ else allow
        outside = as_user()
        mark = {name: value for name, value in outside["env"].items() if name.startswith("PROVISION_TEST")}
        bwrap = ["bwrap", *_world(self._files, self._unreadable), *_python(self.prefix)]
        bwrap += ["--perms", "1777", "--tmpfs", "/tmp"] if "tmp" in allowed else []
        for directory in ("/", "/data", "/data/data", "/dev"):
            bwrap += ["--chmod", "0111", directory]
        for name, value in {**ENVIRONMENT, "PROOT_NO_SECCOMP": "1", **mark, **(env or {})}.items():
            bwrap += ["--setenv", name, value]
        bwrap += ["--chdir", cwd, "--seccomp", "9", "--", *map(str, argv)]
        filter_ = self._filters / ("links" if "links" in allowed else "filter")
        return ["sh", "-c", 'umask 077 && exec "$@" 9<"$0"', str(filter_), *bwrap], outside


# Files


def _world(files: Path, unreadable: Path) -> list[str]:
    """Return bwrap's options for the files and namespaces of an app."""
    namespaces = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "localhost")
    options = [*namespaces, "--die-with-parent", "--clearenv", "--uid", str(UID), "--gid", str(UID)]
    # They stand for Android's libraries and linker.
    for library in ("/lib", "/lib32", "/lib64", "/libx32"):
        if Path(library).is_dir():
            options += ["--ro-bind", str(Path(library).resolve()), library]
    options += ["--ro-bind", find_program("mksh") or "", "/system/bin/sh", "--symlink", "/system/bin", "/bin"]
    options += ["--dir", "/system/etc", "--symlink", "/system/etc", "/etc"]
    options += ["--proc", "/proc", "--ro-bind", "/sys", "/sys", "--tmpfs", "/dev"]
    for name in UNREADABLE:
        options += ["--ro-bind", str(unreadable), f"/proc/{name}"]
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    # bwrap provides terminals only with a complete /dev, which has more than Android's: link to that one.
    options += ["--dev", "/dev/.whole"]
    for name in ("ptmx", "pts"):
        options += ["--symlink", f".whole/{name}", f"/dev/{name}"]
    return [*options, "--bind", str(files), FILES]


def _python(prefix: Path) -> list[str]:
    """Return bwrap's options for Python's library, the package and its dependencies, all read-only."""
    checkout, packages = user_python()[1]["PYTHONPATH"].split(":")
    inside = f"{PREFIX}/opt/provision"
    options = ["--ro-bind", str(_python_prefix() / "lib" / _PYTHON), f"{PREFIX}/lib/{_PYTHON}"]
    for part in ("provisioner", "profiles", "scripts"):
        options += ["--ro-bind", f"{checkout}/{part}", f"{inside}/{part}"]
    options += ["--ro-bind", packages, f"{inside}/packages", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"]
    if any(prefix.glob("lib/libpython*")):
        options += ["--setenv", "LD_LIBRARY_PATH", f"{PREFIX}/lib"]
    return [*options, "--setenv", "PYTHONPATH", f"{inside}/android:{inside}:{inside}/packages"]


def _python_prefix() -> Path:
    return Path(user_python()[0]).resolve().parent.parent


def _furnish(prefix: Path) -> None:
    """Create Termux's $PREFIX with programs of this machine."""
    for name in ("bin", "etc", "lib", "tmp", "opt/provision/android"):
        (prefix / name).mkdir(parents=True)
    for source in _programs():
        shutil.copy(source, prefix / "bin")
    if proot := os.environ.get("PROVISION_TEST_PROOT"):
        shutil.copy(proot, prefix / "bin/proot")
    shutil.copy(user_python()[0], prefix / "bin" / _PYTHON)
    # Some Pythons load libpython from their prefix.
    for library in _python_prefix().glob("lib/libpython*.so*"):
        shutil.copy(library, prefix / "lib")
    shutil.copy(_harmless_library(), prefix / "lib/libtermux-exec.so")
    for name, target in {"sh": "dash", "awk": "mawk", "python3": _PYTHON, "python": _PYTHON}.items():
        (prefix / "bin" / name).unlink(missing_ok=True)
        (prefix / "bin" / name).symlink_to(target)
    (prefix / "opt/provision/android/sitecustomize.py").write_text(_SITECUSTOMIZE)


@cache
def _programs() -> list[Path]:
    files = [Path(line) for line in run("dpkg-query", "--listfiles", *_PACKAGES).splitlines()]
    return [file for file in files if file.parent.name in ("bin", "sbin") and file.is_file()]


def _harmless_library() -> str:
    """Return the path of a library that any program can preload: libm, which this Python has loaded."""
    maps = Path("/proc/self/maps").read_text()
    return next(line.split()[-1] for line in maps.splitlines() if "/libm.so" in line)


# System calls


def _rules(mode: str, links: bool) -> list[Rule]:
    """Return the seccomp rules for what the kernel allows to a user without capabilities, but Android doesn't."""
    blocked = TRAP if mode == "sigsys" else refuse(errno.EPERM)
    # Setting the same owner, or none (-1), is allowed.
    ours = (UID, 0xFFFFFFFF)
    owners = [(("chown", "lchown", "fchown", "chown32", "lchown32", "fchown32"), 1), (("fchownat",), 2)]
    return [
        Rule(blocked, _BLOCKED),
        Rule(blocked, ("clone",), Argument(0, (0,), _NAMESPACES, among=False)),
        Rule(refuse(errno.ENOSYS), _MISSING),
        Rule(refuse(errno.EACCES), () if links else ("link", "linkat")),
        *(
            Rule(refuse(errno.EPERM), calls, Argument(position, ours, among=False))
            for calls, user in owners
            for position in (user, user + 1)
        ),
    ]


@cache
def system_calls() -> dict[str, int]:
    """Return the system calls that the jail has rules for and this machine has, with their numbers."""
    calls = {call for rule in _rules("errno", links=False) for call in rule.calls}
    numbers = {call: number(call, native_arch()) for call in calls}
    return {call: known for call, known in numbers.items() if known is not None}


def provision_in_jail(jail: Jail, image: str) -> None:
    """Run the main job in a jail: $HOME/debian."""
    done = jail.run(["python3", "-m", "provisioner", image, f"{HOME}/debian"])
    assert done.returncode == 0, done.stderr
