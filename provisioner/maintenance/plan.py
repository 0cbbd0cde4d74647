"""Plans the update of a directory: what becomes of what the user has changed, and what the new image changes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from provisioner.comparison.changes import is_mount_point, opened_record, size_on_disk
from provisioner.comparison.join import join
from provisioner.comparison.merge import Decision, Side, State, decide
from provisioner.comparison.places import is_package_database
from provisioner.comparison.state import Aspect, Baseline
from provisioner.container.access import open_rootfs
from provisioner.errors import MachineError, PathErrors
from provisioner.filesystem.atomic import NAME_MAX
from provisioner.filesystem.descriptors import closing_descriptor, open_readable
from provisioner.filesystem.kind import KINDS, Kind
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.ownership.digests import hash_file
from provisioner.ownership.mtree import MtreeEntry, parse_entries
from provisioner.ownership.record import open_record
from provisioner.rootfs.readable_tree import ReadableTree
from provisioner.rootfs.tree import NOTHING_THERE, Tree
from provisioner.terminal.escaping import printable

BESIDE = b".provision-new"
"""What the name of the image's file ends with, where it comes beside the user's."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to a path of the new tree that the user has changed."""

    path: bytes
    """Where the user's file is in the old tree."""
    place: bytes
    """Where it comes to in the new tree: another path where the image has made a directory above it a symlink."""
    decision: Decision
    base: State | None
    disk: State | None
    new: State | None
    size: int = 0
    """The bytes of the user's file that are copied."""
    is_blocked: bool = False
    """Whether it isn't carried out, since the new image has something else than a directory above `place`."""
    is_place_taken: bool = False
    """Whether it isn't carried out, since the old tree has another file at `place` itself."""

    @property
    def beside(self) -> bytes:
        """Return where the image's file comes to that stands beside the user's.

        A name without room for BESIDE is cut off, and tells by a part of its hash which one it is.
        """
        above, slash, name = self.place.rpartition(b"/")
        if len(name) + len(BESIDE) > NAME_MAX:
            digest = b"-" + hashlib.sha256(name).hexdigest()[:8].encode()
            end = NAME_MAX - len(BESIDE) - len(digest)
            while name[end] & 0xC0 == 0x80:  # in the middle of a letter of UTF-8
                end -= 1
            name = name[:end] + digest
        return above + slash + name + BESIDE


@dataclass
class UpdatePlan:
    """All that an update does."""

    actions: list[Action] = field(default_factory=list)
    """In the order of `walk`."""
    image_changes: Counter[str] = field(default_factory=Counter)
    """How many files the new image adds (A), changes (C) and deletes (D)."""
    has_user_packages: bool = False
    """Whether the user, or what runs, has changed a package database."""
    has_image_packages: bool = False
    """Whether the new image has another package database."""
    packages: list[bytes] = field(default_factory=list)
    """The packages that are installed in the new image, since both sides have changed the database."""
    returning_packages: list[bytes] = field(default_factory=list)
    """The packages that the user has removed, and that come again with the new image, for the same reason."""

    @property
    def size(self) -> int:
        """Return the bytes to copy."""
        return sum(action.size for action in self.actions)

    @property
    def conflicts(self) -> list[Action]:
        """Return the actions that the user should know of."""
        return [action for action in self.actions if action.decision.is_conflict]


def plan_update(old: int, new: int, shown: str) -> UpdatePlan:
    """Return the plan for the directory whose `.provision/` is open as `old`; that of the new one is open as `new`.

    Both have a complete rootfs and record; `shown` is the old one's name for messages. Raises MachineError.
    """
    with (
        opened_record(old, shown) as (base_record, baseline),
        opened_record(new, shown) as (new_record, _),
        PathErrors(f"compare {shown} with both images") as errors,
        closing_descriptor(open_rootfs(old)) as old_rootfs,
        closing_descriptor(open_rootfs(new)) as new_rootfs,
        ReadableTree(old_rootfs) as old_tree,
        Tree(new_rootfs) as new_tree,
    ):
        planner = _Planner(replace(baseline, opens_closed=True), old_tree, new_tree, old, new)
        records = [parse_entries(base_record), parse_entries(new_record)]
        for path, (base, entry), file in join(records, walk(old_rootfs, closed="open")):
            errors.path = path
            if file is not None and file.is_mounted:
                inside = printable(b"/" + path)
                raise MachineError(
                    f"{inside} in {shown} is a file system or subvolume of its own, which an update can't carry over",
                    "move it out of DIR, and back afterwards",
                )
            planner.add(path, base, file, entry)
        planner.mark_blocked()
        return planner.plan


class _Planner:
    """Makes a plan from the paths of all three sides, in the order of `walk`."""

    def __init__(self, baseline: Baseline, old_tree: Tree, new_tree: Tree, old_folder: int, new_folder: int) -> None:
        self.plan = UpdatePlan()
        self._baseline = baseline
        self._old_tree = old_tree
        self._new_tree = new_tree
        self._old_folder = old_folder
        self._new_folder = new_folder
        self._replaced = b"/"
        """A directory that the user has deleted or replaced, with a slash behind it; nothing below it comes."""
        self._redirects: dict[bytes, _Redirect] = {}
        """By the path of a directory that is a symlink in the new image."""
        self._beside: set[bytes] = set()

    def add(self, path: bytes, base: MtreeEntry | None, file: WalkedFile | None, new: MtreeEntry | None) -> None:
        """Add a path to the plan. Raises OSError."""
        self._count(path, base, new)
        if path.startswith(self._replaced):
            if not _has_same_data(base, new):
                self._mark_replaced()
            return
        place = path
        if (redirect := self._redirect_above(path)) is not None:
            place = redirect.real + path[len(redirect.path) :]
            new = redirect.new.get(place)
            if self._is_taken(place, redirect):
                self._add_taken(path, place, base, file, new)
                return
        if path in self._beside:
            return
        if base is None and file is not None and is_mount_point(path, file, self._baseline.mount_points):
            return
        aspects = self._baseline.compare(path, base, file) if base is not None and file is not None else ()
        if base is not None and file is not None and not aspects:
            self._note_symlink(path, base, new)
            return
        if base is None and file is None:
            return
        self._decide(path, place, base, file, new, aspects)

    def mark_blocked(self) -> None:
        """Mark the user's files that have no place, since there is no directory for them, as conflicts."""
        kinds = {
            action.place: action.disk and action.disk.kind
            for action in self.plan.actions
            if action.decision.content in (Side.USER, Side.BESIDE)
        }
        known: dict[bytes, bool] = {b"": True}

        def can_hold(path: bytes) -> bool:
            """Return whether a path is a directory in the end, or nothing is there."""
            if path not in known:
                known[path] = can_hold(path.rpartition(b"/")[0]) and self._is_free_or_directory(path, kinds)
            return known[path]

        for number, action in enumerate(self.plan.actions):
            keeps = action.decision.content in (Side.USER, Side.BESIDE) and action.disk is not None
            if keeps and not can_hold(action.place.rpartition(b"/")[0]):
                decision = action.decision._replace(is_conflict=True)
                self.plan.actions[number] = replace(action, decision=decision, is_blocked=True)

    def _is_free_or_directory(self, path: bytes, kinds: dict[bytes, Kind | None]) -> bool:
        """Return whether nothing is at a path of the new tree, or a directory; `kinds` are those of what is brought."""
        if path in kinds:
            return kinds[path] is Kind.DIRECTORY
        try:
            return stat.S_ISDIR(self._new_tree.lstat(self._new_tree.locate(path, create=False)).st_mode)
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return True

    def _decide(
        self,
        path: bytes,
        place: bytes,
        base: MtreeEntry | None,
        file: WalkedFile | None,
        new: MtreeEntry | None,
        aspects: tuple[Aspect, ...],
    ) -> None:
        if is_package_database(path):
            self.plan.has_user_packages = True
        before = None if base is None else _state_of(base, 0)
        disk = None if file is None else self._disk_state(file, before, aspects)
        after = None if new is None else _state_of(new, _content_of(new, base, file, disk))
        decision = decide(place, before, disk, after)
        if decision == _AS_IN_THE_IMAGE:
            return
        keeps = decision.content in (Side.USER, Side.BESIDE)
        size = size_on_disk(file.stat) if file is not None and keeps else 0
        self.plan.actions.append(Action(path, place, decision, before, disk, after, size))
        if decision.content is Side.BESIDE:
            self._beside.add(self.plan.actions[-1].beside)
        was_directory = Kind.DIRECTORY in (base and base.kind, new and new.kind)
        if keeps and was_directory and (disk is None or disk.kind is not Kind.DIRECTORY):
            self._replaced = path + b"/"
        if base is not None and file is not None and base.is_directory and file.is_directory:
            self._note_symlink(path, base, new)

    def _count(self, path: bytes, base: MtreeEntry | None, new: MtreeEntry | None) -> None:
        """Count what the new image changes."""
        if base is None and new is None:
            return
        if base is None or new is None:
            self.plan.image_changes["A" if base is None else "D"] += 1
        elif not _has_same_data(base, new) or _mode_and_owner(base) != _mode_and_owner(new):
            self.plan.image_changes["C"] += 1
        if is_package_database(path) and not _has_same_data(base, new):
            self.plan.has_image_packages = True

    def _mark_replaced(self) -> None:
        """Mark the last deleted or replaced directory as a conflict, since the image has changed something in it."""
        for number in range(len(self.plan.actions) - 1, -1, -1):
            action = self.plan.actions[number]
            if action.path + b"/" == self._replaced:
                self.plan.actions[number] = replace(action, decision=action.decision._replace(is_conflict=True))
                return

    def _note_symlink(self, path: bytes, base: MtreeEntry, new: MtreeEntry | None) -> None:
        """Remember a directory that is a symlink to another one in the new image, as after the merge of /usr."""
        if not base.is_directory or new is None or new.kind is not Kind.SYMLINK:
            return
        real = self._new_tree.resolve(path)
        if real:
            old, new_entries = (
                dict(_entries_below(folder, real + b"/")) for folder in (self._old_folder, self._new_folder)
            )
            self._redirects[path] = _Redirect(path, real, old, new_entries)

    def _is_taken(self, place: bytes, redirect: _Redirect) -> bool:
        """Return whether the old image or the user has something at the place itself: that decides what comes."""
        if place in redirect.old:
            return True
        try:
            found = self._old_tree.locate(place, create=False)
            self._old_tree.lstat(found)
            return found.path == place
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return False

    def _add_taken(
        self, path: bytes, place: bytes, base: MtreeEntry | None, file: WalkedFile | None, new: MtreeEntry | None
    ) -> None:
        """Add a conflict for a file of the user's where another one is in its place, so that it isn't brought over."""
        aspects = self._baseline.compare(path, base, file) if base is not None and file is not None else ()
        if file is None or file.is_directory or (base is not None and not aspects):
            return
        before = None if base is None else _state_of(base, 0)
        after = None if new is None else _state_of(new, _content_of(new, base, file, None))
        disk, decision = self._disk_state(file, before, aspects), _AS_IN_THE_IMAGE._replace(is_conflict=True)
        self.plan.actions.append(Action(path, place, decision, before, disk, after, is_place_taken=True))

    def _redirect_above(self, path: bytes) -> _Redirect | None:
        """Return the redirect of a directory above a path; None where there is none."""
        for redirect in self._redirects.values():
            if path.startswith(redirect.path + b"/"):
                return redirect
        return None

    def _disk_state(self, file: WalkedFile, base: State | None, aspects: tuple[Aspect, ...]) -> State:
        """Return the state of a file on the disk. What hasn't changed is that of `base`."""
        kind = KINDS.get(stat.S_IFMT(file.stat.st_mode))
        mode = 0 if kind is Kind.SYMLINK else stat.S_IMODE(file.stat.st_mode)
        found = State(kind, 1, mode, self._baseline.owner_of(file.stat))
        if base is None or Aspect.TYPE in aspects:
            return found
        return State(
            base.kind,
            1 if Aspect.CONTENT in aspects else 0,
            mode if Aspect.MODE in aspects else base.mode,
            found.owner if Aspect.OWNER in aspects else base.owner,
        )


@dataclass(frozen=True)
class _Redirect:
    """A directory that is a symlink to another one in the new image."""

    path: bytes
    real: bytes
    """Where it leads."""
    old: dict[bytes, MtreeEntry]
    """What the old image has there, by path."""
    new: dict[bytes, MtreeEntry]
    """What the new image has there."""


def _entries_below(folder: int, prefix: bytes) -> Iterator[tuple[bytes, MtreeEntry]]:
    """Yield the paths of a record below a directory, with their entries."""
    above: list[bytes] = []
    with open_record(folder) as record:
        for entry in parse_entries(record):
            if entry is None:
                above.pop()
                continue
            path = b"/".join([*above[1:], entry.name])
            if entry.is_directory:
                above.append(entry.name)
            if path.startswith(prefix):
                yield path, entry


_AS_IN_THE_IMAGE = Decision(Side.IMAGE, Side.IMAGE, Side.IMAGE, is_conflict=False)


def _state_of(entry: MtreeEntry, content: int) -> State:
    return State(entry.kind, content, 0 if entry.kind is Kind.SYMLINK else entry.mode, (entry.uid, entry.gid))


def _content_of(new: MtreeEntry, base: MtreeEntry | None, file: WalkedFile | None, disk: State | None) -> int:
    """Return the number of the new image's content: 0 for that of the base, 1 for another one that the disk has too."""
    if _has_same_data(base, new):
        return 0
    is_same = file is not None and disk is not None and disk.kind is new.kind and _has_content(file, new)
    return 1 if is_same else 2


def _has_content(file: WalkedFile, entry: MtreeEntry) -> bool:
    """Return whether a file has the content of an entry of its kind. Raises OSError."""
    if entry.kind is Kind.SYMLINK:
        return os.readlink(file.name, dir_fd=file.directory) == entry.target
    if entry.kind is not Kind.FILE:
        return entry.kind in (Kind.DIRECTORY, Kind.FIFO)
    if not stat.S_ISREG(file.stat.st_mode) or file.stat.st_size != entry.size:
        return False
    if not entry.digest:
        return file.stat.st_mtime_ns == entry.mtime
    try:
        with closing_descriptor(open_readable(file.directory, file.name, file.stat)) as opened:
            return hash_file(opened) == entry.digest
    except PermissionError:
        return False


def _has_same_data(one: MtreeEntry | None, other: MtreeEntry | None) -> bool:
    """Return whether two records say the same of a path, but for its mode and owner."""
    if one is None or other is None:
        return one is other
    if (one.kind, one.target, one.device) != (other.kind, other.target, other.device):
        return False
    if one.kind is not Kind.FILE:
        return True
    if one.digest and other.digest:
        return one.digest == other.digest
    return (one.size, one.mtime) == (other.size, other.mtime)


def _mode_and_owner(entry: MtreeEntry) -> tuple[int, int, int]:
    return entry.mode, entry.uid, entry.gid
