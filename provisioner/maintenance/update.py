"""Updates a provisioned directory to another image, by a three-way merge: what the user has changed stays."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.comparison.changes import find_changes, opened_record
from provisioner.comparison.state import Baseline
from provisioner.container.access import FOLDER, read_file
from provisioner.container.mounted import check_not_mounted
from provisioner.container.record import ACCOUNTS, PACKAGES, Record
from provisioner.container.running import check_not_running
from provisioner.container.staging import staging_directory
from provisioner.errors import HINTS, MachineError, NotTrusted, TargetExists, UsageError, machine_errors
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.copying import TreeCopier
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.filesystem.walk import WalkedFile
from provisioner.image.image import Image
from provisioner.launch.renewal import keep_defaults
from provisioner.layers.unpack import ROOTFS
from provisioner.maintenance.merging import Merge, merge_files
from provisioner.maintenance.packages import install_packages, missing_packages, without_packages
from provisioner.maintenance.plan import UpdatePlan, plan_update
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import remake_state
from provisioner.profile import load_profile
from provisioner.provision import Plan, provision
from provisioner.rootfs.packages import read_owned_paths, read_packages
from provisioner.rootfs.tree import Tree
from provisioner.sizes import counted, size_text
from provisioner.sources import Source
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

_SCRIPT = "start.sh"
_OWN_NAMES = (_SCRIPT, ROOTFS, FOLDER)
_KEPT_FILES = ("links",)
"""Files in `.provision/` that start.sh has written and that stay true."""
_NAME_MAX = 255


@dataclass(frozen=True)
class Update:
    """A directory and how it is updated."""

    directory: Path
    trust: TrustedDirectories
    record: Record
    """What the directory was made of."""
    keeps_old: bool = True
    """Whether the directory as it was stays, under another name."""
    sync: bool = True


@dataclass(frozen=True)
class Updated:
    """What an update has done."""

    kept: str
    """The name of the old directory, empty where it was removed."""
    merge: Merge


Approval = Callable[[UpdatePlan, str], None]
"""Is called with the plan and the name under which the old directory stays. Raises to have nothing done."""


def update(update: Update, folder: int, image: Image, source: Source, console: Console, approve: Approval) -> Updated:
    """Update a directory to `image`, that of `source`, if `approve` returns. `folder` is its open `.provision/`.

    The new directory is made beside it, and they are swapped when it is complete. Raises ProvisionError, and what
    `approve` raises: then nothing has changed.
    """
    shown = printable(str(update.directory))
    with opened_record(folder, shown) as (_, baseline):
        pass
    _check_owner(folder, baseline, shown)
    check_not_running(update.directory)
    with closing_descriptor(os.open("..", DIRECTORY, dir_fd=folder)) as opened:
        check_not_mounted(opened, update.directory, "update", only_here=True)
    _check_space(folder, image, shown)
    kept = _kept_name(update.directory) if update.keeps_old else ""
    merges: list[Merge] = []

    def complete(new: int) -> str:
        with closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=new)) as new_folder:
            plan = plan_update(folder, new_folder, shown)
            manager = ""
            if plan.has_user_packages and plan.has_image_packages:
                plan, manager = _plan_packages(plan, folder, new_folder, shown)
            approve(plan, kept)
            _check_free(new, plan.size, shown)
            if plan.packages:
                console.step(f"installing {counted(len(plan.packages), 'package')} in the new image")
                log = update.directory.with_name(f"{update.directory.name}.update-{os.getpid()}.log")
                install_packages(staging_directory(update.directory) / "new", manager, plan.packages, log)
            merges.append(_merge(plan, folder, new_folder, baseline))
        _keep_other_files(folder, new)
        _keep_settings(update, folder, new)
        check_not_running(update.directory)
        return kept

    provision(_plan(update, folder, baseline, image), source, console, complete)
    return Updated(kept, merges[0])


def _plan(update: Update, folder: int, baseline: Baseline, image: Image) -> Plan:
    profile: str | None = update.record.profile
    try:
        load_profile(update.record.profile)
    except UsageError:  # it was a file
        profile = None
    options = update.record.options
    return Plan(
        update.directory,
        image.config.platform,
        ownership=Ownership(baseline.has_image_owners),
        profile=profile,
        dns=options.dns,
        force=True,
        binds=options.binds,
        env=options.env,
        proot_options=options.proot_options,
        runtime=options.runtime,
        hostname=options.hostname,
        run=update.record.run,
        ids="many" if read_file(folder, "ids", "ids") else None,
        sync=update.sync,
        trust=update.trust,
    )


def _merge(plan: UpdatePlan, old_folder: int, new_folder: int, baseline: Baseline) -> Merge:
    """Bring the user's files into the new rootfs."""

    def accounts(name: str) -> bytes | None:
        try:
            directory = os.open(ACCOUNTS, DIRECTORY, dir_fd=old_folder)
        except FileNotFoundError:
            return None
        with closing_descriptor(directory):
            return read_file(directory, name, name)

    with _opened_rootfs(old_folder) as old_rootfs, _opened_rootfs(new_folder) as new_rootfs:
        with Tree(old_rootfs) as old, Tree(new_rootfs) as new:
            merge = merge_files(plan, old, new, accounts, Ownership(baseline.has_image_owners))
        with machine_errors("write the state of fakeroot"):
            remake_state(new_folder, new_rootfs)
    return merge


def _keep_other_files(folder: int, new: int) -> None:
    """Copy what the user has in the directory beside the rootfs."""
    with (
        machine_errors("copy what is beside the rootfs"),
        closing_descriptor(os.open("..", DIRECTORY, dir_fd=folder)) as old,
    ):
        for name in sorted(set(os.listdir(old)) - set(_OWN_NAMES)):
            _copy(old, os.fsencode(name), new)
        with closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=new)) as new_folder:
            for name in set(os.listdir(folder)).intersection(_KEPT_FILES):
                _copy(folder, os.fsencode(name), new_folder)


def _keep_settings(update: Update, folder: int, new: int) -> None:
    """Give the new start.sh what the user has chosen in the old one, which an older version may have written.

    Another profile has other settings, and gets only those of the record.
    """
    with (
        machine_errors("write start.sh"),
        closing_descriptor(os.open("..", DIRECTORY, dir_fd=folder)) as old,
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=new)) as new_folder,
    ):
        record = Record.read_from(new_folder, update.directory)
        scripts = [read_file(directory, _SCRIPT, _SCRIPT) for directory in (new, old)]
        if record and record.profile == update.record.profile and all(scripts):
            replace_in(new, _SCRIPT, keep_defaults(*map(bytes, filter(None, scripts))), 0o755)


def _copy(source: int, name: bytes, target: int) -> None:
    """Copy a file or directory to another open directory."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    file = WalkedFile(name, source, status)
    if not file.is_directory:
        TreeCopier(target, lambda path: False).copy_file(file, target, name)
        return
    os.mkdir(name, 0o700, dir_fd=target)
    with (
        closing_descriptor(os.open(name, DIRECTORY, dir_fd=source)) as opened,
        closing_descriptor(os.open(name, DIRECTORY, dir_fd=target)) as made,
    ):
        TreeCopier(made, lambda path: False).copy(opened)


@contextmanager
def _opened_rootfs(folder: int) -> Iterator[int]:
    with machine_errors("open the rootfs"):
        opened = os.open("../rootfs", DIRECTORY, dir_fd=folder)
    with closing_descriptor(opened):
        yield opened


def _check_owner(folder: int, baseline: Baseline, shown: str) -> None:
    owner = os.fstat(folder).st_uid
    if owner != os.geteuid():
        raise NotTrusted(f"{shown} belongs to the user {owner}", "update it as that user")
    if baseline.first_id is not None:
        raise MachineError(
            f"files in {shown} belong to subordinate ids, which an update can't carry over yet",
            "provision the new image to another directory, and copy what you need",
        )


def _check_space(folder: int, image: Image, shown: str) -> None:
    """Raise MachineError where the compressed layers and the user's files don't fit."""
    changed = sum(change.disk_size for change in find_changes(folder, shown) if change.letter != "D")
    layers = sum(blob.size for blob in set(image.manifest.layers))
    _check_free(folder, changed + layers, shown)


def _check_free(directory: int, size: int, shown: str) -> None:
    with machine_errors("look at the free space"):
        state = os.statvfs(directory)
    free = state.f_bavail * state.f_frsize if state.f_blocks else size
    if size > free:
        raise MachineError(
            f"the update of {shown} needs {size_text(size)} and more, and {size_text(free)} are free",
            HINTS[errno.ENOSPC],
        )


def _plan_packages(plan: UpdatePlan, folder: int, new_folder: int, shown: str) -> tuple[UpdatePlan, str]:
    """Return the plan for what no package owns, with the packages to install, and the name of their manager.

    Raises TargetExists where the package manager isn't known well enough for that.
    """
    with (
        machine_errors(f"read the packages of {shown}"),
        _opened_rootfs(folder) as old_rootfs,
        _opened_rootfs(new_folder) as new_rootfs,
        Tree(old_rootfs) as old_tree,
        Tree(new_rootfs) as new_tree,
    ):
        old, new = read_packages(old_tree), read_packages(new_tree)
        if old is None or new is None or old.manager != new.manager:
            raise TargetExists(
                f"packages were installed or upgraded in {shown}, and the new image has other packages as well: "
                "their databases can't be merged",
                "upgrade inside, by the package manager; or provision the new image to another directory",
            )
        base = frozenset((read_file(folder, PACKAGES, PACKAGES) or b"").splitlines())
        names = missing_packages(base, old, new)
        owned = frozenset(read_owned_paths(old_tree, old.manager))
        return replace(without_packages(plan, owned), packages=names), old.manager


def _kept_name(directory: Path) -> str:
    """Return a free name beside a directory, with the date of today."""
    base = f"{directory.name}.before-{time.strftime('%Y-%m-%d')}"
    for number in range(1, 1000):
        name = base if number == 1 else f"{base}-{number}"
        if not os.path.lexists(directory.with_name(name)):
            if len(os.fsencode(name)) > _NAME_MAX:
                break
            return name
    raise TargetExists(
        f"{printable(str(directory.with_name(base)))} can't be made", "add --no-keep, or remove older ones"
    )
