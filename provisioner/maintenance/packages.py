"""Installs in a new directory the packages that the user had added to the old one, where databases can't be merged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.comparison.merge import Side
from provisioner.comparison.places import is_account_file, is_configuration, is_package_database, is_user_data
from provisioner.container_files import SCRIPT
from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.kind import Kind
from provisioner.maintenance.plan import Action, UpdatePlan
from provisioner.rootfs.packages import PackagedContent, read_defaults, read_owned_paths, read_packages
from provisioner.rootfs.tree import Tree
from provisioner.terminal.escaping import printable

_INSTALL = {
    "apt": "export DEBIAN_FRONTEND=noninteractive; apt-get update && "
    'apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold -- "$@"',
    "apk": 'apk update && apk add -- "$@"',
    "pacman": 'pacman -Sy --noconfirm --needed -- "$@"',
    "dnf": 'for name in dnf microdnf yum; do command -v "$name" >/dev/null && exec "$name" -y install "$@"; done; '
    "echo neither dnf nor yum is there; exit 127",
}
"""The script for /bin/sh by package manager; its arguments are names of packages."""
_CACHES = (
    *(b"var/lib/dpkg/", b"var/lib/apt/", b"var/cache/", b"lib/apk/", b"usr/lib/apk/", b"var/lib/pacman/"),
    *(b"var/lib/dnf/", b"usr/lib/sysimage/", b"var/log/dnf", b"etc/ld.so.cache", b"etc/apk/world"),
)
"""What package managers and ldconfig(8) write: it belongs to the packages of the new directory."""
_SOURCES = (
    *(b"etc/apt/", b"etc/apk/", b"etc/pacman.conf", b"etc/pacman.d/", b"etc/yum.repos.d/", b"etc/dnf/", b"etc/yum"),
    *(b"etc/pki/", b"etc/ssl/", b"usr/share/keyrings/", b"usr/local/share/ca-certificates/"),
)
"""Where package managers find out where packages come from, and whom to trust."""
_SHOWN = 500
_LARGEST_DEFAULT = 8 << 20
"""The most bytes of a configuration file that is compared with that of its package."""


@dataclass(frozen=True)
class PackagePlan:
    """How an update carries packages over whose databases can't be merged."""

    manager: str
    install: list[bytes]
    """What the user has added by hand, and the new image doesn't have; sorted."""
    returning: list[bytes]
    """What the user has removed, and the new image has; sorted."""
    owned: frozenset[bytes]
    """The paths of the files that the user's packages own."""
    owned_in_image: frozenset[bytes]
    """The paths of the files that the new image's packages own."""
    defaults: Mapping[bytes, PackagedContent]
    """The configuration files of the user's packages as these have them."""


def plan_packages(old: Tree, new: Tree, base: frozenset[bytes]) -> PackagePlan | None:
    """Return the plan for the trees of both sides, None where a package manager isn't known. Raises OSError.

    `base` are the packages that were installed by hand in the old image.
    """
    ours, theirs = read_packages(old), read_packages(new)
    if ours is None or theirs is None or ours.manager != theirs.manager:
        return None
    return PackagePlan(
        ours.manager,
        sorted(ours.by_hand - base - theirs.installed),
        sorted((base - ours.installed) & theirs.installed),
        frozenset(read_owned_paths(old, ours.manager)),
        frozenset(read_owned_paths(new, ours.manager)),
        read_defaults(old, ours.manager),
    )


def install_packages(directory: Path, manager: str, names: Iterable[bytes], log: Path) -> None:
    """Install packages in a directory, by its start.sh as its root. What they print is written to the new file `log`.

    Raises MachineError where that fails; then the log stays, else it is removed.
    """
    words = [
        str(directory / SCRIPT),
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


def part_before_packages(plan: UpdatePlan) -> UpdatePlan:
    """Return the part of a plan that is carried out first: users and groups, and where packages come from.

    So packages find the user's repositories, and give their files to the users that have the old numbers. Where both
    sides have changed a repository, packages come from the new image's.
    """
    return replace(plan, actions=[_by_line(action) for action in plan.actions if _comes_first(action)])


def part_after_packages(plan: UpdatePlan, packages: PackagePlan, written: Collection[bytes], old: Tree) -> UpdatePlan:
    """Return the rest of it: for what no package owns, and for /etc.

    `written` are the paths that are no longer as in the new image, since packages were installed. What these have
    written stays, but for files of /etc that the user has changed. Raises OSError.
    """

    def is_carried(action: Action) -> bool:
        path, place = action.path, action.place
        if _comes_first(action) or is_package_database(path) or path.startswith(_CACHES):
            return False
        is_of_image = place in packages.owned_in_image
        if is_of_image and action.disk is None and path not in packages.owned:
            return False  # it was deleted with a package that comes again
        if place not in written or is_user_data(place):
            return is_configuration(path) or not (is_of_image or path in packages.owned or place in packages.owned)
        return is_configuration(path) and not _is_default(path, packages, old)

    return replace(plan, actions=[action for action in plan.actions if is_carried(action)])


def _comes_first(action: Action) -> bool:
    if is_account_file(action.path):
        return True
    return action.path.startswith(_SOURCES) and not action.path.startswith(_CACHES) and not action.decision.is_conflict


def _is_default(path: bytes, packages: PackagePlan, old: Tree) -> bool:
    """Return whether a file is as its package has it."""
    if path not in packages.defaults:
        return False
    content = old.read(path, _LARGEST_DEFAULT + 1)
    return content is not None and packages.defaults[path].is_of(content)


def _by_line(action: Action) -> Action:
    disk = action.disk
    if is_account_file(action.path) and disk is not None and disk.kind is Kind.FILE and action.new is not None:
        return replace(action, decision=action.decision._replace(content=Side.LINES, is_conflict=False))
    return action
