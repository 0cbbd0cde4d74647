"""How to install something here: by the package manager that this system has."""

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

# Packages whose names aren't the same everywhere. An empty name: that system has none.
_NAMES = {
    "uidmap": {"pkg": "", "apk": "shadow-subids", "dnf": "shadow-utils", "pacman": "shadow", "zypper": "shadow"},
    "bubblewrap": {"pkg": ""},
    "libmagic1": {"pkg": "libmagic", "apk": "libmagic", "dnf": "file-libs", "pacman": "file"},
    "qemu-user-static": {"pkg": "qemu-user-{}", "apk": "qemu-{}", "zypper": "qemu-linux-user"},
}


def is_termux() -> bool:
    """Whether this is Termux, or another app with a prefix of its own."""
    return os.environ.get("PREFIX", "").startswith("/data/")


def is_android() -> bool:
    """Whether the kernel is Android's, also where a distribution runs on it."""
    return is_termux() or "ANDROID_ROOT" in os.environ or os.path.exists("/system/build.prop")


def install(package: str, kind: str = "") -> str:
    """The command that installs `package`, Debian's name for it; empty where there is no way.

    `kind` is the processor, in qemu's name of it, where packages are one a processor.
    """
    manager = "pkg" if is_termux() else next((name for name in _MANAGERS if shutil.which(name)), "")
    name = _NAMES.get(package, {}).get(manager, package)
    kind = kind.replace("_", "-") if manager == "pkg" else kind
    if not manager or not name:
        return "" if manager else f"install {package}"
    command = f"{_MANAGERS[manager]} {name.format(kind)}"
    return command if is_termux() else as_root(command)  # Termux's packages are the user's own


def as_root(command: str) -> str:
    """A command line that needs root, as this user has to type it."""
    if os.geteuid() == 0:
        return command
    return f"sudo {command}" if shutil.which("sudo") else f"{command} (as root)"
