"""Whose files this process relies on: who may own a directory, and who may write to it.

A directory counts as ours when a trusted user owns it and nobody else may write to it. `TrustedUsers` says who is
trusted, `find_stranger` who isn't and could change a file, `TrustedDirectories` for which directories the user has
lifted the rule. Nothing here looks a path up but `TrustedDirectories.covers`.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from provisioner.filesystem.descriptors import NEW_FILE
from provisioner.filesystem.users import (
    has_android_ids,
    is_job_in_container,
    kernel_user,
    private_groups,
    unmapped_user,
    users_before_root,
)

FIRST_APP_ID = 10000
"""On Android, ids below this are the system's own; each app has one of those above."""
_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_ACL_USER, _ACL_GROUP_OF_FILE, _ACL_GROUP, _ACL_MASK = 0x02, 0x04, 0x08, 0x10
_ACL_WRITE = 2
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Stranger(NamedTuple):
    """Somebody who isn't trusted and could change a file."""

    role: Literal["owner", "user", "group", "everybody", "link"]
    """`owner` owns the file; `link` says that it is a symlink to another; all others may write to it."""
    id: int = -1
    """The id of the user or the group."""

    def __str__(self) -> str:
        """Return what is wrong, to be put behind the name of the file."""
        if self.role == "owner":
            return f"belongs to the user {self.id}, who is not trusted"
        if self.role == "link":
            return "is a symlink"
        if self.role == "everybody":
            return "may be written to by everybody"
        return f"may be written to by the {self.role} {self.id}"


@dataclass(frozen=True)
class TrustedUsers:
    """The users who may own what this process relies on, and may write to it."""

    users: frozenset[int]
    groups: frozenset[int] = frozenset()
    """Groups that have no other members than these users."""
    has_android_ids: bool = False
    """Whether ids below FIRST_APP_ID are the system's own."""
    is_everybody: bool = False
    """Whether nobody else is on this machine: a job of CI in a container of its own."""

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str] = os.environ) -> TrustedUsers:
        """Find out who is trusted: this user, root, whoever became root, and those that a user namespace can't name.

        Reads some files in /proc, and asks for the groups of these users.
        """
        users = {0, os.geteuid()} | kernel_user() | unmapped_user()
        if os.geteuid() == 0:
            users |= users_before_root(environment)
        everybody = os.geteuid() == 0 and is_job_in_container(environment)
        return cls(frozenset(users), private_groups(users) | unmapped_user(), has_android_ids(environment), everybody)

    def has_user(self, uid: int) -> bool:
        """Return whether a user is trusted."""
        return self.is_everybody or uid in self.users or (self.has_android_ids and uid < FIRST_APP_ID)

    def has_group(self, gid: int) -> bool:
        """Return whether all members of a group are trusted."""
        return self.is_everybody or gid == 0 or gid in self.groups or (self.has_android_ids and gid < FIRST_APP_ID)

    def with_user(self, uid: int) -> TrustedUsers:
        """Return these users, and one more."""
        return replace(self, users=self.users | {uid})


def find_stranger(
    state: os.stat_result, users: TrustedUsers, acl: bytes = b"", *, is_sticky_enough: bool = False
) -> Stranger | None:
    """Return somebody who isn't trusted and could change the file of `state`; None where there is nobody.

    `acl` is its POSIX access control list, as `read_acl` returns it. With `is_sticky_enough`, others may write to a
    directory that is sticky: there they can create files, but not touch those of others.
    """
    if not users.has_user(state.st_uid):
        return Stranger("owner", state.st_uid)
    if users.is_everybody or (is_sticky_enough and state.st_mode & stat.S_ISVTX):
        return None
    if state.st_mode & stat.S_IWOTH:
        return Stranger("everybody")
    # The group's bits of a file with an ACL are the most that its entries can allow.
    if not state.st_mode & stat.S_IWGRP:
        return None
    if not acl:
        return None if users.has_group(state.st_gid) else Stranger("group", state.st_gid)
    for role, id_ in _acl_writers(acl, state.st_gid):
        if not (users.has_user(id_) if role == "user" else users.has_group(id_)):
            return Stranger(role, id_)
    return None


def _acl_writers(acl: bytes, group: int) -> Iterable[tuple[Literal["user", "group"], int]]:
    """Yield the users and groups whom an ACL lets write, but for the owner and others; `group` is the file's.

    The form is that of the kernel (include/uapi/linux/posix_acl_xattr.h). One that can't be parsed lets anybody write.
    """
    if len(acl) % 8 != 4 or struct.unpack_from("<I", acl)[0] != _ACL_VERSION:
        yield "user", -1
        return
    entries = list(struct.iter_unpack("<HHI", acl[4:]))
    mask = next((allowed for tag, allowed, _ in entries if tag == _ACL_MASK), _ACL_WRITE)
    for tag, allowed, id_ in entries:
        if allowed & mask & _ACL_WRITE:
            if tag == _ACL_USER:
                yield "user", id_
            elif tag == _ACL_GROUP:
                yield "group", id_
            elif tag == _ACL_GROUP_OF_FILE:
                yield "group", group


def read_acl(file: int) -> bytes:
    """Return the POSIX ACL of an open file, which may be opened by O_PATH; nothing where there is none."""
    if not hasattr(os, "getxattr"):  # Python has none on Termux, nor has Android any ACLs
        return b""
    try:
        return os.getxattr(f"/proc/self/fd/{file}", _ACL)
    except OSError as error:
        return b"" if error.errno in _WITHOUT_ACL else b"?"


_WITHOUT_ACL = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT, errno.ENOSYS)


def is_plainly_ours(state: os.stat_result) -> bool:
    """Return whether a file is this user's or root's and nobody else may write to it, by its owner and mode alone."""
    return state.st_uid in (0, os.geteuid()) and not state.st_mode & _OTHERS_WRITE


def created_owner(directory: int) -> int | None:
    """Return the owner that a file created in an open directory gets; None where none can be created.

    That is another one than this user on NFS with root_squash, and on file systems that know no owners.
    """
    name = f".provision-{os.urandom(8).hex()}"
    try:
        file = os.open(name, NEW_FILE, 0, dir_fd=directory)
    except OSError:
        return None
    try:
        return os.fstat(file).st_uid
    finally:
        os.close(file)
        os.unlink(name, dir_fd=directory)


def users_in(directory: int, *, beside: int | None = None) -> TrustedUsers:
    """Return whom to trust in an open directory: its owner too, where that is the owner of what is created there.

    `beside` is the open directory to try that in, where it is another one.
    """
    users = TrustedUsers.of_this_process()
    owner = os.fstat(directory).st_uid
    if users.has_user(owner) or created_owner(directory if beside is None else beside) != owner:
        return users
    return users.with_user(owner)


class Untrusted(OSError):
    """A file that this process would have relied on could be changed by somebody who isn't trusted."""

    def __init__(self, path: str, stranger: Stranger, all_in: str = "") -> None:
        super().__init__(f"{path} {stranger}")
        self.path = path
        self.stranger = stranger
        self.all_in = all_in
        """The path of the directory, all of which one user should own; empty where there is none."""


@dataclass(frozen=True)
class TrustedDirectories:
    """The directories for which the user has lifted the rule."""

    paths: tuple[str, ...] = ()
    """Absolute paths, each with all that is below it and on the way to it; `*` stands for all directories."""

    def covers(self, directory: str | Path) -> bool:
        """Return whether the rule is lifted for a directory."""
        real = os.path.realpath(directory) if self._real else ""
        return "*" in self.paths or any(real == path or real.startswith(path.rstrip("/") + "/") for path in self._real)

    @cached_property
    def _real(self) -> list[str]:
        return [os.path.realpath(path) for path in self.paths if os.path.isabs(path)]


NOBODY = TrustedDirectories()
"""The rule is lifted for no directory."""
ALL = TrustedDirectories(("*",))
"""The rule is lifted for all directories."""


def check_ours(file: int, shown: str, *, users: TrustedUsers | None = None, owner: int | None = None) -> None:
    """Raise Untrusted unless an open file or directory is ours; `shown` is its path for messages.

    `users` are whom to trust, by default those of this process; `owner` is one more.
    """
    state = os.fstat(file)
    if is_plainly_ours(state):
        return
    users = users or TrustedUsers.of_this_process()
    acl = read_acl(file) if state.st_mode & stat.S_IWGRP else b""
    if stranger := find_stranger(state, users if owner is None else users.with_user(owner), acl):
        raise Untrusted(shown, stranger)
