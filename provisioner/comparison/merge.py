"""Decides what becomes of a path when the image of a directory is replaced by another one: a three-way merge.

The three sides are the image that the directory was made of (`base`), what is on the `disk`, and the `new` image. This
is the table of docs/changes.md, and all of it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeVar

from provisioner.comparison.places import is_account_file, is_configuration, is_user_data
from provisioner.filesystem.kind import Kind

T = TypeVar("T")


class State(NamedTuple):
    """What one of the three sides has at a path."""

    kind: Kind | None
    """None for a socket, which only the disk can have."""
    content: int
    """The same number for the same content, among the three: bytes of a file, target of a link, numbers of a device."""
    mode: int
    """The permission bits; 0 for a symlink, which has none."""
    owner: tuple[int, int]
    """User and group, as the guest sees them."""

    @property
    def data(self) -> tuple[Kind | None, int]:
        """Return all but mode and owner. All directories have the same."""
        return self.kind, 0 if self.kind is Kind.DIRECTORY else self.content


class Side(Enum):
    """Which side's file is there after the update; none where that side has none."""

    IMAGE = "image"
    USER = "user"
    BESIDE = "beside"
    """The user's, and the image's comes beside it as PATH.provision-new."""
    LINES = "lines"
    """Both: the file is merged line by line."""


class Decision(NamedTuple):
    """What becomes of a path."""

    content: Side
    mode: Side
    """IMAGE or USER, for what is there after the update."""
    owner: Side
    """As `mode`."""
    is_conflict: bool
    """Whether both sides have changed it, each in its own way, so that the user should know."""


def decide(path: bytes, base: State | None, disk: State | None, new: State | None) -> Decision:
    """Return what becomes of a path. A side that has nothing there is None."""
    content, is_conflict = _decide_content(path, base, disk, new)
    if base and disk and new is None and (base.mode, base.owner) != (disk.mode, disk.owner):
        is_conflict = True  # the image deletes what the user has changed, be it the mode alone
    if base is None or disk is None or new is None or len({base.kind, disk.kind, new.kind}) > 1:
        rest = Side.IMAGE if content is Side.IMAGE else Side.USER
        return Decision(content, rest, rest, is_conflict)
    mode, is_mode_conflict = _decide_attribute(path, base.mode, disk.mode, new.mode)
    owner, is_owner_conflict = _decide_attribute(path, base.owner, disk.owner, new.owner)
    return Decision(content, mode, owner, is_conflict or is_mode_conflict or is_owner_conflict)


def _decide_content(path: bytes, base: State | None, disk: State | None, new: State | None) -> tuple[Side, bool]:
    was, now, will = (side and side.data for side in (base, disk, new))
    if now in (was, will):
        return Side.IMAGE, False
    if was == will:
        return Side.USER, False
    if now is None or is_user_data(path):
        return Side.USER, True
    if is_account_file(path) and disk and new and disk.kind is new.kind is Kind.FILE:
        return Side.LINES, False
    if is_configuration(path):
        return (Side.USER if will is None else Side.BESIDE), True
    return Side.IMAGE, True


def _decide_attribute(path: bytes, base: T, disk: T, new: T) -> tuple[Side, bool]:
    """Decide for the mode or the owner of what all three sides have."""
    if disk in (base, new):
        return Side.IMAGE, False
    if base == new:
        return Side.USER, False
    return (Side.USER if is_configuration(path) or is_user_data(path) else Side.IMAGE), True
