"""The commands that fix a failed check, with this system's package manager."""

from __future__ import annotations

import os
import shutil

_MANAGERS = {
    "pkg": "pkg install",
    "apt-get": "apt install",
    "apk": "apk add",
    "dnf": "dnf install",
    "pacman": "pacman -S",
    "zypper": "zypper install",
}

_NAMES = {
    "uidmap": {"pkg": "", "apk": "shadow-subids", "dnf": "shadow-utils", "pacman": "shadow", "zypper": "shadow"},
    "bubblewrap": {"pkg": ""},
    "util-linux": {"pkg": "util-linux mount-utils"},
    "libmagic1": {"pkg": "libmagic", "apk": "libmagic", "dnf": "file-libs", "pacman": "file"},
    "qemu-user-static": {"pkg": "qemu-user-{}", "apk": "qemu-{}", "zypper": "qemu-linux-user"},
}
"""By Debian's name of a package, its names in other distributions if they differ; empty if it doesn't exist there."""

_TERMUX_EMULATORS = ("aarch64", "arm", "i386", "riscv64", "x86_64")
"""The architectures, by qemu's names, for which Termux has qemu-user."""


def is_termux() -> bool:
    """Return whether this is Termux, or another Android app that has a PREFIX."""
    return os.environ.get("PREFIX", "").startswith("/data/")


def has_android_kernel() -> bool:
    """Return whether the kernel is Android's, also inside of a distribution that runs on it."""
    return is_termux() or "ANDROID_ROOT" in os.environ or os.path.exists("/system/build.prop")


def install_command(package: str, machine: str = "") -> str:
    """Return the command that installs `package`, Debian's name of it; empty if this system has no such package.

    `machine` is qemu's name of an architecture, for packages whose name contains it.
    """
    manager = "pkg" if is_termux() else next((name for name in _MANAGERS if shutil.which(name)), "")
    name = _NAMES.get(package, {}).get(manager, package)
    machine = machine.replace("_", "-") if manager == "pkg" else machine
    if not manager or not name:
        return "" if manager else f"install {package}"
    command = f"{_MANAGERS[manager]} {name.format(machine)}"
    return command if is_termux() else root_command(command)  # in Termux, packages belong to the user


def emulator_fix(machine: str) -> str:
    """Return the fix for running programs of the architecture `machine`, qemu's name of it."""
    if is_termux() and machine not in _TERMUX_EMULATORS:
        return "choose an image for this machine: Termux has no qemu-user for that one"
    return install_command("qemu-user-static", machine)


def root_command(command: str) -> str:
    """Return `command`, which needs root, as this user has to type it."""
    if os.geteuid() == 0:
        return command
    return f"sudo {command}" if shutil.which("sudo") else f"{command} (as root)"
