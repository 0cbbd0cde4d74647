"""Probes of what the kernel allows this user: mounts, namespaces, the number of processes."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import attempt, run_program
from provisioner.doctor.fixes import has_android_kernel, install_command, root_command

# From linux/sched.h and linux/mount.h.
_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_REC, _PRIVATE = 0x4000, 1 << 18

_LIMITS = (
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user.max_user_namespaces", "0", "15000"),
)
"""Kernel settings that forbid user namespaces: name, value that forbids them, value that allows them."""


# Android 12L and later have a setting that turns the limit off; Android 12 can only raise it.
_PHANTOM = 'adb shell "settings put global settings_enable_monitor_phantom_procs false"'
_PHANTOM_12 = (
    'adb shell "device_config set_sync_disabled_for_tests persistent; '
    'device_config put activity_manager max_phantom_processes 2147483647"'
)


def check_unshare(site: Site) -> Finding:
    """Check whether the programs are installed that start.sh uses to create namespaces."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in ("unshare", "mount", "chroot") if not shutil.which(name, path=path)]
    if not missing:
        return ok("the programs unshare, mount and chroot are there")
    return no(f"{', '.join(missing)} missing: start.sh has only proot", install_command("util-linux"))


def check_chroot(site: Site) -> Finding:
    """Check whether start.sh can use chroot, which needs root with its capabilities."""
    reply = attempt(partial(_mount_and_enter, site.scratch or Path("/"), _NEWNS | _NEWPID))
    if reply.worked:
        return ok("mount and chroot work in a private namespace: start.sh uses chroot")
    if os.geteuid() != 0:
        return no(f"not root ({reply.reason}): start.sh uses proot or user namespaces")
    return no(f"root, but {reply.reason}: start.sh uses proot or user namespaces")


def check_user_namespaces(site: Site) -> Finding:
    """Check whether this user can be root in a user namespace, and mount there."""
    reply = attempt(partial(_become_root_and_mount, site.scratch or Path("/")))
    if reply.worked:
        return ok("work: start.sh uses them for users, at native speed")
    setting, fix = _forbidding_setting()
    cause = f"{reply.reason}, by {setting}" if setting else reply.reason
    return no(f"{cause}: start.sh uses proot", fix)


def check_subordinate_ids(site: Site) -> Finding:
    """Check whether a user namespace can have more than one user: newuidmap(1) and subordinate ids."""
    if os.geteuid() == 0:
        return ok("root needs none")
    effect = "a user namespace has one user only"
    if not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        return no(f"newuidmap is missing: {effect}", install_command("uidmap"))
    user = _user_name()
    entry = re.compile(rf"(?:{re.escape(user)}|{os.geteuid()}):\d+:\d+")
    try:
        has_ids = all(
            any(map(entry.fullmatch, Path(f).read_text().splitlines())) for f in ("/etc/subuid", "/etc/subgid")
        )
    except (OSError, UnicodeDecodeError):
        has_ids = False
    if has_ids:
        return ok(f"newuidmap is there, with ids for {user}")
    fix = root_command(f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
    return no(f"/etc/subuid and /etc/subgid have no ids for {user}: {effect}", fix)


def check_bubblewrap(site: Site) -> Finding:
    """Check whether bwrap works, which start.sh can use for user namespaces without the static helper."""
    program = shutil.which("bwrap")
    if not program:
        return no(
            "missing: packages with owners of their own can't be installed in user namespaces",
            install_command("bubblewrap"),
        )
    status, output = run_program(program, "--unshare-user", "--ro-bind", "/", "/", shutil.which("true") or "true")
    return ok("works") if status == 0 else no(f"it fails: {output or f'status {status}'}", _forbidding_setting()[1])


def check_phantom_processes(site: Site) -> Finding:
    """Check whether Android limits the number of processes; Android 12 and later kill all beyond 32."""
    if not has_android_kernel():
        return ok("no limit: this is no Android")
    level = _android_setting("getprop", "ro.build.version.sdk")
    if level.isdecimal() and int(level) < 31:
        return ok("no limit before Android 12")
    if _android_setting("settings", "get", "global", "settings_enable_monitor_phantom_procs") == "false":
        return ok("the limit is off")
    limit = _android_setting("device_config", "get", "activity_manager", "max_phantom_processes")
    fix = _PHANTOM_12 if level == "31" else _PHANTOM if level.isdecimal() else f"{_PHANTOM}; Android 12: {_PHANTOM_12}"
    if limit.isdecimal() and int(limit) > 1000:
        return ok(f"the limit is {limit} processes")
    if limit.isdecimal() or level.isdecimal():
        number = limit if limit.isdecimal() else "32"
        return no(f"Android kills processes of all apps beyond {number} together (signal 9)", fix)
    return unknown("Android 12 and later kill processes of all apps beyond 32 together (signal 9)", fix)


def _android_setting(*command: str) -> str:
    """Return the output of an Android program; empty if the program is missing or fails."""
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', os.defpath)}:/system/bin")
    status, output = run_program(program, *command[1:]) if program else (1, "")
    return output if status == 0 else ""


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _forbidding_setting() -> tuple[str, str]:
    """Return the kernel's setting that forbids user namespaces, and the command that allows them; both may be empty."""
    if has_android_kernel():
        return "", ""  # apps never get user namespaces
    for setting, forbids, allows in _LIMITS:
        try:
            value = Path("/proc/sys", *setting.split(".")).read_text().strip()
        except OSError:
            continue
        if value == forbids:
            return f"{setting}={value}", root_command(f"sysctl -w {setting}={allows}")
    return "", "in a container: allow unshare and mount in its seccomp profile, or use proot"


def _call(function: Callable[..., int], *arguments: object) -> None:
    """Call a function of the C library; raise OSError where it fails."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount_and_enter(directory: Path, namespaces: int) -> None:
    """Create the namespaces, mount a tmpfs on `directory` there and chroot into it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong
    _call(libc.unshare, namespaces)
    _call(libc.mount, b"none", b"/", None, flags(_REC | _PRIVATE), None)
    _call(libc.mount, b"tmpfs", os.fsencode(directory), b"tmpfs", flags(0), None)
    os.chroot(directory)


def _become_root_and_mount(directory: Path) -> None:
    """Become root of a new user namespace, then call `_mount_and_enter`. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare, _NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)
    _mount_and_enter(directory, _NEWNS | _NEWPID)
