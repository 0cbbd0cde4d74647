"""Updates a provisioned directory to another image, by a three-way merge: what the user has changed stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.comparison.changes import find_changes, opened_record
from provisioner.comparison.state import Baseline
from provisioner.container.access import open_rootfs, read_file
from provisioner.container.copying import give_new_id
from provisioner.container.ids import read_ids
from provisioner.container.mounted import check_not_mounted
from provisioner.container.record import Record
from provisioner.container.recovery import staging_directory
from provisioner.container.running import check_not_running
from provisioner.container_files import ACCOUNTS, FOLDER, LINKS, PACKAGES, ROOTFS, SCRIPT
from provisioner.errors import MachineError, NotTrusted, TargetExists, UsageError, machine_errors, no_room
from provisioner.filesystem.atomic import NAME_MAX, name_with_end, replace_in
from provisioner.filesystem.copying import TreeCopier
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.space import free_space
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.filesystem.walk import WalkedFile
from provisioner.image.image import Image
from provisioner.launch.renewal import keep_defaults
from provisioner.maintenance.merging import Merge, merge_files
from provisioner.maintenance.packages import (
    PackagePlan,
    install_packages,
    part_after_packages,
    part_before_packages,
    plan_packages,
)
from provisioner.maintenance.plan import UpdatePlan, plan_update
from provisioner.maintenance.unpacking import unpack_options_of
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import remake_state
from provisioner.profile import load_profile
from provisioner.provision import Plan, provision
from provisioner.rootfs.readable_tree import ReadableTree
from provisioner.rootfs.tree import Tree
from provisioner.sizes import counted
from provisioner.sources import Source
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

_OWN_NAMES = (SCRIPT, ROOTFS, FOLDER)
_KEPT_FILES = (LINKS,)
"""Files in `.provision/` that start.sh has written and that stay true."""


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
    max_size: int | None = None
    """The most bytes that the new image may take, None for nine tenths of the free space."""


@dataclass(frozen=True)
class Updated:
    """What an update has done."""

    old_name: str
    """The name of the old directory, empty where it was removed."""
    blocked: list[bytes]
    """Paths of the user's files that are in the old directory alone: something of the image is in their way."""
    notes: list[str]
    """Lines about users and groups, for people."""
    content: str = ""
    """The digest of the new ownership record (see ownership.record)."""


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
    old_name = _free_name(update.directory) if update.keeps_old else ""
    merges: list[Merge] = []

    def complete(new: int) -> str:
        with closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=new)) as new_folder:
            plan = plan_update(folder, new_folder, shown)
            packages = None
            if plan.has_user_packages and plan.has_image_packages:
                packages = _plan_packages(folder, new_folder, shown)
                plan = replace(plan, packages=packages.install, returning_packages=packages.returning)
            approve(plan, old_name)
            _check_free(new, plan.size, shown)
            if packages:
                merges.append(_merge(part_before_packages(plan), folder, new_folder, baseline))
                plan = _install(update, plan, packages, folder, new_folder, console)
            merges.append(_merge(plan, folder, new_folder, baseline))
        _keep_other_files(folder, new)
        _keep_settings(update, folder, new)
        check_not_running(update.directory)
        return old_name

    outcome = provision(_plan(update, folder, baseline, image), source, console, complete)
    if old_name:  # it is another directory now, and must not be taken for this one
        with (
            machine_errors(f"give {printable(old_name)} an id of its own"),
            closing_descriptor(os.open("..", DIRECTORY, dir_fd=folder)) as old,
        ):
            give_new_id(old)
    blocked = [path for merge in merges for path in merge.blocked]
    notes = [line for merge in merges for line in merge.notes]
    return Updated(old_name, blocked, notes, outcome.content)


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
        unpack_options_of(update.record, update.max_size),
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
        ids="many" if read_ids(folder).are_many else None,
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
        with ReadableTree(old_rootfs) as old, Tree(new_rootfs) as new:
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
    """Keep the id, and give the new start.sh what the user has chosen in the old one.

    An older version may have written that. Another profile has other settings, and gets only those of the record.
    """
    with (
        machine_errors("write start.sh"),
        closing_descriptor(os.open("..", DIRECTORY, dir_fd=folder)) as old,
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=new)) as new_folder,
    ):
        record = Record.read_from(new_folder, update.directory)
        if record and update.record.id:
            replace(record, id=update.record.id).replace(new_folder)
        scripts = [read_file(directory, SCRIPT, SCRIPT) for directory in (new, old)]
        if record and record.profile == update.record.profile and all(scripts):
            replace_in(new, SCRIPT, keep_defaults(*map(bytes, filter(None, scripts))), 0o755)


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
        opened = open_rootfs(folder)
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
    """Raise MachineError where there is no room for the compressed layers and the user's files."""
    changed = sum(change.disk_size for change in find_changes(folder, shown, closed="open") if change.letter != "D")
    _check_free(folder, changed + image.download_size, shown)


def _check_free(directory: int, size: int, shown: str) -> None:
    """Raise MachineError where less than `size` bytes are free on the file system of an open directory."""
    with machine_errors("look at the free space"):
        free = free_space(directory).size
    if size > free:
        raise no_room(f"the update of {shown}", size, free)


def _plan_packages(folder: int, new_folder: int, shown: str) -> PackagePlan:
    """Return what becomes of packages that both sides have. Raises TargetExists where their manager isn't known."""
    with (
        machine_errors(f"read the packages of {shown}"),
        _opened_rootfs(folder) as old_rootfs,
        _opened_rootfs(new_folder) as new_rootfs,
        ReadableTree(old_rootfs) as old,
        Tree(new_rootfs) as new,
    ):
        base = frozenset((read_file(folder, PACKAGES, PACKAGES) or b"").splitlines())
        packages = plan_packages(old, new, base)
    if packages is None:
        raise TargetExists(
            f"packages were installed or upgraded in {shown}, and the new image has other packages as well: "
            "their databases can't be merged",
            "upgrade inside, by the package manager; or provision the new image to another directory",
        )
    return packages


def _install(
    update: Update, plan: UpdatePlan, packages: PackagePlan, folder: int, new_folder: int, console: Console
) -> UpdatePlan:
    """Install the user's packages in the new directory, and return what of the plan is left to do."""
    if packages.install:
        console.step(f"installing {counted(len(packages.install), 'package')} in the new image")
        log = update.directory.with_name(name_with_end(update.directory.name, f".update-{os.getpid()}.log"))
        install_packages(staging_directory(update.directory) / "new", packages.manager, packages.install, log)
    written = {change.path for change in find_changes(new_folder, "the new image", closed="open")}
    with (
        machine_errors("compare configuration files with those of packages"),
        _opened_rootfs(folder) as old_rootfs,
        ReadableTree(old_rootfs) as old,
    ):
        return part_after_packages(plan, packages, written, old)


def _free_name(directory: Path) -> str:
    """Return a free name beside a directory, with the date of today."""
    base = f"{directory.name}.before-{time.strftime('%Y-%m-%d')}"
    for number in range(1, 1000):
        name = base if number == 1 else f"{base}-{number}"
        if not os.path.lexists(directory.with_name(name)):
            if len(os.fsencode(name)) > NAME_MAX:
                break
            return name
    raise TargetExists(
        f"{printable(str(directory.with_name(base)))} can't be made", "add --no-keep, or remove older ones"
    )
