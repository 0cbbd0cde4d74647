"""Installs in a new directory the packages that the user had added to the old one, where databases can't be merged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from provisioner.comparison.merge import Side
from provisioner.comparison.places import is_account_file, is_configuration, is_package_database
from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.kind import Kind
from provisioner.maintenance.plan import Action, UpdatePlan
from provisioner.rootfs.packages import Packages
from provisioner.terminal.escaping import printable

_INSTALL = {
    "apt": "export DEBIAN_FRONTEND=noninteractive; apt-get update && "
    'apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold -- "$@"',
    "apk": 'apk update && apk add -- "$@"',
    "pacman": 'pacman -Sy --noconfirm --needed -- "$@"',
}
"""The script for /bin/sh by package manager; its arguments are names of packages."""
_CACHES = (
    *(b"var/lib/dpkg/", b"var/lib/apt/", b"var/cache/", b"lib/apk/", b"usr/lib/apk/", b"var/lib/pacman/"),
    *(b"etc/ld.so.cache", b"etc/apk/world"),
)
"""What package managers and ldconfig(8) write: it belongs to the packages of the new directory."""
_SHOWN = 500


def missing_packages(base: frozenset[bytes], old: Packages, new: Packages) -> list[bytes]:
    """Return the packages that the user has added by hand, and that the new image doesn't have, sorted.

    `base` are those that were installed by hand in the old image.
    """
    return sorted(old.by_hand - base - new.installed)


def install_packages(directory: Path, manager: str, names: Iterable[bytes], log: Path) -> None:
    """Install packages in a directory, by its start.sh as its root. What they print is written to the new file `log`.

    Raises MachineError where that fails; then the log stays, else it is removed.
    """
    words = [
        str(directory / "start.sh"),
        "--root",
        "--workdir",
        "/",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        _INSTALL[manager],
    ]
    with machine_errors(f"install packages in {printable(str(directory))}"):
        with log.open("xb") as output:
            done = subprocess.run(
                [*words, "sh", *map(os.fsdecode, names)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if not done.returncode:
            log.unlink()
            return
        lines = log.read_bytes()[-_SHOWN * 4 :].decode(errors="replace").strip().splitlines() or [""]
    raise MachineError(
        f"packages could not be installed in the new image: {printable(lines[-1][:_SHOWN])}",
        f"see {printable(str(log))}; nothing was changed",
    )


def without_packages(plan: UpdatePlan, owned: frozenset[bytes]) -> UpdatePlan:
    """Return the plan for what no package owns, and for /etc. Account files are merged by line in any case."""
    return replace(plan, actions=[_by_line(action) for action in plan.actions if _is_carried(action.path, owned)])


def _is_carried(path: bytes, owned: frozenset[bytes]) -> bool:
    if is_package_database(path) or path.startswith(_CACHES):
        return False
    return is_configuration(path) or path not in owned


def _by_line(action: Action) -> Action:
    disk = action.disk
    if is_account_file(action.path) and disk is not None and disk.kind is Kind.FILE and action.new is not None:
        return replace(action, decision=action.decision._replace(content=Side.LINES, is_conflict=False))
    return action
