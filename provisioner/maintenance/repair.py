"""Puts files of the image back: those that are damaged or gone from its layers, modes and owners from the record."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from provisioner.comparison.state import Aspect, Baseline
from provisioner.container.staging import Staging
from provisioner.errors import machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, change_mode, closing_descriptor
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import walk
from provisioner.image.image import Image
from provisioner.layers.unpack import UnpackOptions, unpack
from provisioner.maintenance.damage import Damage
from provisioner.ownership.mtree import MtreeEntry
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import remake_state
from provisioner.rootfs.tree import NOTHING_THERE, Place, Tree
from provisioner.sources import Source
from provisioner.terminal.progress import Console


@dataclass
class Repair:
    """What was done."""

    repaired: int = 0
    """How many files were put back, or got their mode or owner."""
    blocked: list[bytes] = field(default_factory=list)
    """Paths where something is in the way that would be lost: a directory with files, or a link above."""


def repair(
    staging: Staging,
    folder: int,
    baseline: Baseline,
    damages: Sequence[Damage],
    image: Image | None,
    source: Source,
    console: Console,
) -> Repair:
    """Repair the rootfs beside the open `.provision/`. `staging` is that of its directory, which isn't replaced.

    `image` is the one that the directory was made of, and `source` has its layers; without an image only modes and
    owners are repaired. Raises ProvisionError; what was put back until then stays.
    """
    done = Repair()
    with closing_descriptor(_open_rootfs(folder)) as rootfs, Tree(rootfs) as tree:
        if image is not None:
            ownership = Ownership(baseline.has_image_owners)
            with (
                closing_descriptor(staging.open_scratch("layers")) as scratch,
                unpack(image, source, staging.new, scratch, ownership, UnpackOptions(), console) as fresh,
            ):
                _put_back(tree, fresh, staging.new, damages, baseline, done)
        with machine_errors("set modes and owners"):
            for damage in damages:
                _set_metadata(tree, damage, baseline, done)
            remake_state(folder, rootfs)
    return done


def _put_back(tree: Tree, fresh: Tree, new: int, damages: Sequence[Damage], baseline: Baseline, done: Repair) -> None:
    """Move what is needed from the tree `fresh`, which is thrown away, to `tree`."""
    needed = {damage.path: damage.entry for damage in damages if damage.needs_content}
    with machine_errors("put files back"):
        for path, entry in {**needed, **_other_names(new, needed)}.items():
            with _located(fresh, path) as source, _located(tree, path) as place:
                if source is None or place is None or not _make_way(place, entry):
                    done.blocked.append(path)
                    continue
                os.rename(source.name, place.name, src_dir_fd=source.directory, dst_dir_fd=place.directory)
                _give_to_owner(place, baseline)
                if entry.is_directory:
                    times = (entry.mtime, entry.mtime)
                    os.utime(place.name, ns=times, dir_fd=place.directory, follow_symlinks=False)
                done.repaired += 1
            tree.forget_paths()
            fresh.forget_paths()


def _other_names(new: int, needed: dict[bytes, MtreeEntry]) -> dict[bytes, MtreeEntry]:
    """Return the other names of needed files that have hard links: all names have to be of one file again."""
    if not any(entry.links > 1 for entry in needed.values()):
        return {}
    names: dict[int, list[bytes]] = {}
    above: list[bytes] = []
    with closing_descriptor(os.open("rootfs", DIRECTORY, dir_fd=new)) as rootfs:
        for file in walk(rootfs):
            if file is None:
                above.pop()
                continue
            if file.is_directory:
                above.append(file.name)
            elif file.stat.st_nlink > 1:
                names.setdefault(file.stat.st_ino, []).append(b"/".join([*above[1:], file.name]))
    found = {}
    for paths in names.values():
        if entry := next((needed[path] for path in paths if path in needed), None):
            found.update({path: entry for path in paths if path not in needed})
    return found


@contextmanager
def _located(tree: Tree, path: bytes) -> Iterator[Place | None]:
    """Give the place of a path; None where a symlink is above it, or nothing."""
    try:
        place = tree.locate(path, create=False)
    except OSError as error:
        if error.errno not in NOTHING_THERE:
            raise
        yield None
        return
    yield place if place.path == path else None


def _make_way(place: Place, entry: MtreeEntry) -> bool:
    """Remove what rename(2) would not replace. Returns False where that would lose somebody's files."""
    try:
        mode = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode) and not entry.is_directory:
        try:
            os.rmdir(place.name, dir_fd=place.directory)
        except OSError:
            return False
    elif entry.is_directory and not stat.S_ISDIR(mode):
        os.unlink(place.name, dir_fd=place.directory)
    return True


def _give_to_owner(place: Place, baseline: Baseline) -> None:
    """Give what root has put back to the owner of the directory, if that isn't root."""
    if os.geteuid() or not baseline.owner[0]:
        return
    os.chown(place.name, *baseline.owner, dir_fd=place.directory, follow_symlinks=False)
    with (
        suppress(NotADirectoryError),
        closing_descriptor(os.open(place.name, DIRECTORY, dir_fd=place.directory)) as opened,
    ):
        for file in filter(None, walk(opened)):
            os.chown(file.name, *baseline.owner, dir_fd=file.directory, follow_symlinks=False)


def _set_metadata(tree: Tree, damage: Damage, baseline: Baseline, done: Repair) -> None:
    """Set the owner, then the mode, which chown(2) may take setuid from."""
    entry = damage.entry
    if damage.needs_content or not {Aspect.MODE, Aspect.OWNER} & set(damage.aspects):
        return
    with _located(tree, damage.path) as place:
        if place is None:
            done.blocked.append(damage.path)
            return
        owner = (entry.uid, entry.gid) if baseline.has_image_owners else baseline.owner
        if Aspect.OWNER in damage.aspects:
            os.chown(place.name, *owner, dir_fd=place.directory, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            mode = Ownership(baseline.has_image_owners).mode(entry.kind, entry.mode)
            change_mode(place.directory, place.name, mode)
        done.repaired += 1


def _open_rootfs(folder: int) -> int:
    with machine_errors("open the rootfs"):
        return os.open("../rootfs", DIRECTORY, dir_fd=folder)
