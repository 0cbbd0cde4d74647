"""Puts files of the image back: those that are damaged or gone from its layers, modes and owners from the record."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Self

from provisioner.comparison.state import Aspect, Baseline, content_of_link
from provisioner.container.access import open_rootfs
from provisioner.container.staging import Staging
from provisioner.container_files import ROOTFS
from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.copying import TreeCopier
from provisioner.filesystem.descriptors import DIRECTORY, change_mode, closing_descriptor, open_readable
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.link_names import find_link_names
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.filesystem.xattrs import set_xattrs
from provisioner.image.image import Image
from provisioner.layers.job import UnpackJob, UnpackOptions
from provisioner.layers.unpack import unpack
from provisioner.maintenance.damage import Damage
from provisioner.ownership.mtree import MtreeEntry
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import remake_state
from provisioner.rootfs.access_lists import set_access_lists
from provisioner.rootfs.tree import NOTHING_THERE, Place, Tree
from provisioner.sources import Source
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console


@dataclass(frozen=True)
class Repair:
    """What is damaged in a directory, and what it is repaired from."""

    damages: Sequence[Damage]
    image: Image | None
    """The image that the directory was made of; None where only modes and owners are to be repaired."""
    source: Source
    """Has the layers of the image."""
    unpack_options: UnpackOptions


@dataclass
class Repaired:
    """What a repair has done."""

    count: int = 0
    """How many files were put back, or got their mode or owner."""
    blocked: list[bytes] = field(default_factory=list)
    """Paths where something is in the way that would be lost: a directory with files, or a link above."""


def repair(repair: Repair, folder: int, baseline: Baseline, staging: Staging, console: Console) -> Repaired:
    """Repair the rootfs beside the open `.provision/`, with the `baseline` of its directory.

    `staging` is that of the directory, which isn't replaced: what is put back comes from there. Raises ProvisionError;
    what was put back until then stays.
    """
    done = Repaired()
    with closing_descriptor(_open_rootfs(folder)) as rootfs, Tree(rootfs) as tree:
        if repair.image is not None:
            ownership = Ownership(baseline.has_image_owners)
            with closing_descriptor(staging.open_scratch("layers")) as scratch:
                job = UnpackJob(
                    repair.image, repair.source, staging.new, scratch, ownership, console, repair.unpack_options
                )
                with unpack(job) as fresh:
                    if ownership.exact:
                        with machine_errors("set access lists"):
                            set_access_lists(fresh.locate(b"").directory, fresh.overrides)
                    _put_back(tree, fresh, staging.new, repair.damages, baseline, done)
        with _MetadataSetter(rootfs, baseline, lambda: staging.open_scratch("copies")) as setter:
            for damage in repair.damages:
                if not damage.needs_content and {Aspect.MODE, Aspect.OWNER} & set(damage.aspects):
                    _repair_metadata(tree, damage, setter, done)
        with machine_errors("write the state of fakeroot"):
            remake_state(folder, rootfs)
    return done


def _put_back(tree: Tree, fresh: Tree, new: int, damages: Sequence[Damage], baseline: Baseline, done: Repaired) -> None:
    """Move what is needed from the tree `fresh`, which is thrown away, to `tree`."""
    needed = {damage.path: damage.entry for damage in damages if damage.needs_content}
    with machine_errors("put files back"):
        wanted = {**needed, **_other_names(new, needed)}
    for path, entry in wanted.items():
        shown = printable(b"/" + path)
        with immutable_errors(f"put {shown} back", shown):
            with _located(fresh, path) as source, _located(tree, path) as place:
                if source is None or place is None or not _clear_place(place, entry):
                    done.blocked.append(path)
                    continue
                os.rename(source.name, place.name, src_dir_fd=source.directory, dst_dir_fd=place.directory)
                _give_to_owner(place, baseline)
                if entry.is_directory:
                    times = (entry.mtime, entry.mtime)
                    os.utime(place.name, ns=times, dir_fd=place.directory, follow_symlinks=False)
                done.count += 1
            tree.forget_paths()
            fresh.forget_paths()


def _other_names(new: int, needed: dict[bytes, MtreeEntry]) -> dict[bytes, MtreeEntry]:
    """Return the other names of needed files that have hard links: all names have to be of one file again."""
    if not any(entry.links > 1 for entry in needed.values()):
        return {}
    with closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=new)) as rootfs:
        names = find_link_names(rootfs)
    found = {}
    for paths in names:
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


def _clear_place(place: Place, entry: MtreeEntry) -> bool:
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


def _repair_metadata(tree: Tree, damage: Damage, setter: _MetadataSetter, done: Repaired) -> None:
    shown = printable(b"/" + damage.path)
    with immutable_errors(f"set the mode and owner of {shown}", shown), _located(tree, damage.path) as place:
        if place is None:
            done.blocked.append(damage.path)
            return
        setter.repair(place, damage)
        done.count += 1


@contextmanager
def immutable_errors(what: str, shown: str) -> Iterator[None]:
    """Turn an OSError into a MachineError, with a hint where a file may be immutable; `shown` is its path in rootfs."""
    try:
        with machine_errors(what):
            yield
    except MachineError as error:
        if getattr(error.__cause__, "errno", 0) == errno.EPERM:
            error.hint = f"it may be immutable, or in such a directory; as root: chattr -i rootfs{shown}"
        raise


class _MetadataSetter:
    """Sets modes and owners, never those of a file that has a name elsewhere, too: such a file is replaced by a copy.

    `scratch` returns an open directory for the copies, on the same file system.
    """

    def __init__(self, rootfs: int, baseline: Baseline, scratch: Callable[[], int]) -> None:
        self._rootfs = rootfs
        self._baseline = baseline
        self._new_scratch = scratch
        self._scratch = -1
        self._copier: TreeCopier | None = None
        self._copied: Counter[tuple[int, int]] = Counter()
        """How many names of a file were replaced, by its device and inode."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scratch >= 0:
            os.close(self._scratch)

    def repair(self, place: Place, damage: Damage) -> None:
        """Give the file at a place the owner and mode that the record says. Raises OSError."""
        entry = damage.entry
        file = WalkedFile(place.name, place.directory, _lstat(place.directory, place.name))
        if self._baseline.links is not None and entry.kind is Kind.FILE and stat.S_ISLNK(file.stat.st_mode):
            file = content_of_link(file, self._baseline.links)
        inode = file.stat.st_dev, file.stat.st_ino
        if inode not in self._copied and not self._is_known_elsewhere(file, entry):
            self._set(file.directory, file.name, damage)
            return
        if self._copier is None:
            self._scratch = self._new_scratch()
            self._copier = TreeCopier(self._scratch, lambda path: False)
        self._copied[inode] += 1
        folder = b"%d-%d" % (len(self._copied), self._copied[inode])
        os.mkdir(folder, 0o700, dir_fd=self._scratch)
        with closing_descriptor(os.open(folder, DIRECTORY, dir_fd=self._scratch)) as here:
            self._copier.copy_file(file, here, folder + b"/" + file.name)
            self._set(here, file.name, damage)
            if hasattr(os, "link"):  # so that further names of the file become names of the same copy
                os.link(file.name, _COPY, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
            else:  # Python has none on Termux
                os.rename(file.name, _COPY, src_dir_fd=here, dst_dir_fd=here)
            os.rename(_COPY, file.name, src_dir_fd=here, dst_dir_fd=file.directory)

    def _is_known_elsewhere(self, file: WalkedFile, entry: MtreeEntry) -> bool:
        """Return whether a file has names that the image doesn't know, in the rootfs or outside of it."""
        if file.is_directory or file.stat.st_nlink == 1:
            return False
        return file.stat.st_nlink > min(entry.links, self._names_inside[file.stat.st_ino])

    @cached_property
    def _names_inside(self) -> Counter[int]:
        """The number of names in the rootfs, before anything is repaired, by inode."""
        found: Counter[int] = Counter()
        for file in walk(self._rootfs, closed="open"):
            if file is not None and not file.is_directory and not file.is_mounted and file.stat.st_nlink > 1:
                found[file.stat.st_ino] += 1
        return found

    def _set(self, directory: int, name: bytes, damage: Damage) -> None:
        """Set the owner, then the mode and capabilities, which chown(2) may take away."""
        entry, exact = damage.entry, self._baseline.has_image_owners
        if Aspect.OWNER in damage.aspects:
            owner = (entry.uid, entry.gid) if exact else self._baseline.owner
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            change_mode(directory, name, Ownership(exact).mode(entry.kind, entry.mode))
        if entry.xattrs and Aspect.OWNER in damage.aspects:
            with closing_descriptor(open_readable(directory, name, _lstat(directory, name))) as opened:
                set_xattrs(opened, entry.xattrs, privileged=exact)


_COPY = b"\n"
"""A name in scratch beside the copy of a file, whatever that is called."""


def _lstat(directory: int, name: bytes) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _open_rootfs(folder: int) -> int:
    with machine_errors("open the rootfs"):
        return open_rootfs(folder)
