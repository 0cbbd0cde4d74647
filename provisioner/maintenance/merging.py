"""Carries out the plan of an update: brings what the user has changed into the tree of the new image."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from provisioner.comparison.accounts import COMPANIONS, find_shared_ids, merge_accounts, missing_lines
from provisioner.comparison.merge import Side
from provisioner.comparison.places import is_account_file
from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.copying import TreeCopier
from provisioner.filesystem.descriptors import DIRECTORY, NEW_FILE, change_mode, closing_descriptor, open_readable
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import WalkedFile
from provisioner.filesystem.xattrs import drop_inherited_lists, read_xattrs, set_read_xattrs
from provisioner.maintenance.plan import Action, UpdatePlan
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.account_files import LARGEST
from provisioner.rootfs.tree import NOTHING_THERE, Place, Tree
from provisioner.terminal.escaping import printable


@dataclass
class Merge:
    """What an update did, except for what its plan says."""

    blocked: list[bytes] = field(default_factory=list)
    """Paths of the user's files that are in the old directory alone: something of the image is in their place."""
    notes: list[str] = field(default_factory=list)
    """Lines about users and groups, for people."""


def merge_files(
    plan: UpdatePlan, old: Tree, new: Tree, accounts: Callable[[str], bytes | None], ownership: Ownership
) -> Merge:
    """Bring the user's files from the tree `old` into the tree `new`, as the plan says.

    `accounts` returns a file of /etc of the old image, None where it is unknown. `ownership` is the policy of
    both trees. Raises MachineError.
    """
    merger = _Merger(old, new, accounts, ownership)
    for action in plan.actions:
        with machine_errors(f"update {printable(b'/' + action.path)}"):
            merger.run(action)
    if any(is_account_file(action.path) for action in plan.actions):
        with machine_errors("merge users and groups"):
            merger.complete_accounts()
    with machine_errors("set times and modes of directories"):
        merger.finish()
    return merger.merge


class _Merger:
    def __init__(self, old: Tree, new: Tree, accounts: Callable[[str], bytes | None], ownership: Ownership) -> None:
        self.merge = Merge()
        self._old = old
        self._new = new
        self._accounts = accounts
        self._ownership = ownership
        top = new.locate(b"")
        self._top = top.directory
        self._copier = TreeCopier(self._top, lambda path: False)
        self._times: dict[bytes, tuple[int, int]] = {}
        """The times of directories that are written to, by path."""
        self._modes: dict[bytes, int] = {}
        """The permission bits of directories, by path: they may close what is written to until the end."""

    def run(self, action: Action) -> None:
        """Carry out one action. Raises OSError."""
        content = action.decision.content
        if content in (Side.USER, Side.BESIDE):
            place = self._find_place(action)
            if place is None:
                if action.disk is not None:
                    self.merge.blocked.append(action.path)
                return
            if content is Side.BESIDE:
                self._put_beside(place, action.beside)
            self._put_users_file(action, place)
        elif content is Side.LINES:
            self._merge_lines(action)
        self._set_mode_and_owner(action)

    def finish(self) -> None:
        """Give directories their times and permissions, those below first. Raises OSError."""
        for path in sorted({*self._times, *self._modes}, reverse=True):
            with suppress(FileNotFoundError, NotADirectoryError):
                place = self._new.locate(path, create=False)
                if not stat.S_ISDIR(self._new.lstat(place).st_mode):
                    continue
                if path in self._times:
                    os.utime(place.name, ns=self._times[path], dir_fd=place.directory, follow_symlinks=False)
                if path in self._modes:
                    change_mode(place.directory, place.name, self._modes[path])

    def _find_place(self, action: Action) -> Place | None:
        """Return the place of an action in the new tree, in a directory that is made where it is missing.

        Returns None where something else is in its way, or nothing is to be deleted.
        """
        if action.disk is not None and not self._make_parents(action):
            return None
        try:
            place = self._new.locate(action.place, create=False)
        except OSError as error:
            if error.errno not in NOTHING_THERE:
                raise
            return None
        if place.path != action.place:
            return None
        self._note_time(place)
        return place

    def _make_parents(self, action: Action) -> bool:
        """Make the directories above a place as the old tree has them. Returns False where a file is in the way."""
        names = action.place.split(b"/")[:-1]
        for count in range(1, len(names) + 1):
            above = b"/".join(names[:count])
            place = self._new.locate(above, create=False)
            try:
                mode = self._new.lstat(place).st_mode
            except FileNotFoundError:
                self._note_time(place)
                original = b"/".join(action.path.split(b"/")[: count - len(names) - 1])
                self._make_directory(place, original)
                continue
            if not stat.S_ISDIR(mode):
                return False
        return True

    def _note_time(self, place: Place) -> None:
        """Remember the time of a directory in which something is going to be changed."""
        path = place.path.rpartition(b"/")[0]
        if place.path and path not in self._times:
            status = os.fstat(place.directory)
            self._times[path] = (status.st_atime_ns, status.st_mtime_ns)

    def _put_beside(self, place: Place, path: bytes) -> None:
        """Rename the image's file to `path`."""
        beside = self._new.locate(path, create=False)
        self._new.remove(beside)
        os.rename(place.name, beside.name, src_dir_fd=place.directory, dst_dir_fd=beside.directory)
        self._new.forget_paths()

    def _put_users_file(self, action: Action, place: Place) -> None:
        """Put the user's file in place of whatever is there; remove that where the user has none."""
        kind = None if action.disk is None else action.disk.kind
        with suppress(FileNotFoundError):
            is_directory = stat.S_ISDIR(self._new.lstat(place).st_mode)
            if is_directory and kind is Kind.DIRECTORY:
                return
            self._new.remove(place)
            place = self._new.locate(action.place, create=False)
        if kind is Kind.DIRECTORY:
            self._make_directory(place, action.path)
        elif action.disk is not None:  # whose kind is None for a socket
            original = self._old.locate(action.path, create=False)
            file = WalkedFile(original.name, original.directory, self._old.lstat(original))
            self._copier.copy_file(file, place.directory, place.path)

    def _make_directory(self, place: Place, path: bytes) -> None:
        """Make a directory with mode, owner, attributes and time of that at `path` in the old tree."""
        os.mkdir(place.name, 0o700, dir_fd=place.directory)
        original = self._old.locate(path, create=False)
        state = self._old.lstat(original)
        with (
            closing_descriptor(open_readable(original.directory, original.name, state)) as source,
            closing_descriptor(os.open(place.name, DIRECTORY, dir_fd=place.directory)) as made,
        ):
            if not os.geteuid():
                os.fchown(made, state.st_uid, state.st_gid)
            drop_inherited_lists(made)
            set_read_xattrs(made, read_xattrs(source))
        self._modes[place.path] = stat.S_IMODE(state.st_mode)
        self._times[place.path] = (state.st_atime_ns, state.st_mtime_ns)
        self._new.forget_paths()

    def _merge_lines(self, action: Action) -> None:
        """Merge a file with a line for each user or group."""
        name = os.fsdecode(action.path).rpartition("/")[2]
        disk, new = (tree.read(action.path, LARGEST + 1) for tree in (self._old, self._new))
        if disk is None or new is None:  # as a hard link of Termux's proot, which is a symlink
            self._put_users_file(action, self._new.locate(action.place, create=False))
            self.merge.notes.append(f"/etc/{name} could not be merged: yours stays")
            return
        if max(len(disk), len(new)) > LARGEST:
            raise MachineError(f"/etc/{name} is too large to be merged", "update without it: move it away first")
        merged, conflicts = merge_accounts(name, self._accounts(name), disk, new)
        self._rewrite(action.place, merged)
        self.merge.notes += [
            f"/etc/{name}: both changed the line of {printable(os.fsdecode(key))}: yours stays" for key in conflicts
        ]
        self.merge.notes += [
            f"/etc/{name}: {printable(os.fsdecode(one))} and {printable(os.fsdecode(other))} have the same number: "
            "each can change what belongs to the other; give one of them another number"
            for one, other in find_shared_ids(name, merged, (disk, new))
        ]

    def complete_accounts(self) -> None:
        """Give users and groups of one file their lines in the other one. Raises OSError."""
        for main, companion in COMPANIONS.items():
            path = f"etc/{companion}".encode()
            texts = (
                self._new.read(f"etc/{main}".encode(), LARGEST),
                *(tree.read(path, LARGEST) for tree in (self._new, self._old)),
            )
            if None in texts or self._new.read_link(path) is not None:
                continue
            names, there, former = (text or b"" for text in texts)
            if lines := missing_lines(names, there, former):
                self._rewrite(path, b"".join(line + b"\n" for line in [*there.splitlines(), *lines]))

    def _rewrite(self, path: bytes, content: bytes) -> None:
        """Replace a file of the new tree by one with another content, and the same mode, owner and attributes."""
        place = self._new.locate(path, create=False)
        self._note_time(place)
        status = self._new.lstat(place)
        xattrs = []
        if stat.S_ISREG(status.st_mode):
            with closing_descriptor(open_readable(place.directory, place.name, status)) as former:
                xattrs = read_xattrs(former)
        self._new.remove(place)
        place = self._new.locate(path, create=False)
        with open(os.open(place.name, NEW_FILE, 0o600, dir_fd=place.directory), "wb") as opened:
            opened.write(content)
            if not os.geteuid():
                os.fchown(opened.fileno(), status.st_uid, status.st_gid)
            drop_inherited_lists(opened.fileno())
            set_read_xattrs(opened.fileno(), xattrs)
            os.fchmod(opened.fileno(), stat.S_IMODE(status.st_mode))

    def _set_mode_and_owner(self, action: Action) -> None:
        """Set mode and owner of what is there in the end, where they aren't those of the side that it came from."""
        decision, disk, new = action.decision, action.disk, action.new
        if disk is None or new is None or disk.kind is not new.kind:
            return
        came_from = Side.USER if decision.content in (Side.USER, Side.BESIDE) else Side.IMAGE
        place = self._new.locate(action.place, create=False)
        if decision.owner is not came_from and self._ownership.exact:
            owner = disk.owner if decision.owner is Side.USER else new.owner
            os.chown(place.name, *owner, dir_fd=place.directory, follow_symlinks=False)
        elif decision.mode is came_from:
            return
        if disk.kind is not None and disk.kind is not Kind.SYMLINK:
            is_users = decision.mode is Side.USER
            mode = disk.mode if is_users else self._ownership.mode(disk.kind, new.mode)
            if disk.kind is Kind.DIRECTORY:
                self._modes[place.path] = mode
            else:
                change_mode(place.directory, place.name, mode)
