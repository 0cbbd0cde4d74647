"""Opening a path one name at a time, so that nobody who isn't trusted decides where it leads.

Root relies on no directory on the way that a stranger owns or may write to; sticky ones, such as /tmp, may be written
to. Nor does root follow a stranger's symlink; others follow them but in sticky directories, as the kernel does with
fs.protected_symlinks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY_LOCATION
from provisioner.filesystem.trust import (
    NOBODY,
    Stranger,
    TrustedDirectories,
    TrustedUsers,
    Untrusted,
    created_owner,
    find_stranger,
    is_plainly_ours,
    read_acl,
)
from provisioner.filesystem.users import is_unmapped

_LINKS = 40


@dataclass(frozen=True)
class ResolvedPath:
    """Where a path leads: an open directory, and the names below it that don't exist."""

    directory: int
    """The descriptor, of O_PATH, of the deepest directory that exists. Whoever has the path closes it."""
    path: Path
    """The whole path, absolute and without symlinks."""
    missing: tuple[str, ...] = ()
    """The names below `directory`; the first one doesn't exist, or is no directory."""


@contextmanager
def resolved(
    path: Path | str, trust: TrustedDirectories = NOBODY, *, parents_only: bool = False, checks_directories: bool = True
) -> Iterator[ResolvedPath]:
    """Resolve `path` for the context.

    With `parents_only`, its last name isn't looked at, nor followed. Without `checks_directories`, only symlinks are
    checked. Raises OSError, and Untrusted where a stranger could decide where the path leads.
    """
    found = resolve(path, trust, parents_only=parents_only, checks_directories=checks_directories)
    try:
        yield found
    finally:
        os.close(found.directory)


def resolve(
    path: Path | str, trust: TrustedDirectories = NOBODY, *, parents_only: bool = False, checks_directories: bool = True
) -> ResolvedPath:
    """Resolve `path` as `resolved` does, without a context: the caller closes the directory. Raises as that does."""
    text = os.fspath(path)
    if "\0" in text:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    absolute = text if text.startswith("/") else os.path.join(os.getcwd(), text)
    walk = _Walk(trust.covers(absolute), checks_directories and os.geteuid() == 0)
    try:
        missing = walk.follow(absolute, parents_only)
    except BaseException:
        os.close(walk.here)
        raise
    return ResolvedPath(walk.here, Path("/", *walk.names, *missing), missing)


def open_file(path: Path | str) -> int:
    """Open a file to read it. Raises OSError, and Untrusted for a symlink that a stranger has made."""
    with resolved(path, checks_directories=False) as found:
        if len(found.missing) != 1:
            number = errno.ENOENT if found.missing else errno.EISDIR
            raise OSError(number, os.strerror(number))
        is_descriptor = found.path.parts[:2] == ("/", "proc") and found.path.parts[-2] == "fd"
        nofollow = 0 if is_descriptor else os.O_NOFOLLOW
        return os.open(found.missing[0], os.O_RDONLY | os.O_CLOEXEC | nofollow, dir_fd=found.directory)


@dataclass
class _Walk:
    """A walk from the root directory, one name at a time."""

    is_trusted: bool
    """Whether the user has lifted the rule for this path."""
    checks_directories: bool
    here: int = field(default_factory=lambda: os.open("/", DIRECTORY_LOCATION))
    names: list[str] = field(default_factory=list)
    """The path of `here`."""

    @cached_property
    def users(self) -> TrustedUsers:
        return TrustedUsers.of_this_process()

    def follow(self, path: str, parents_only: bool) -> tuple[str, ...]:
        """Go as far as the path exists, and return the names that are left."""
        todo, links = deque(path.split("/")), 0
        self._check()
        while todo:
            name = todo.popleft()
            if name in ("", "."):
                continue
            if parents_only and not any(todo) and name != "..":
                return (name,)
            try:
                self._enter(name)
                continue
            except FileNotFoundError:
                return (name, *_normal(todo))
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                target = self._read_link(name)
            if target is None or (self._is_of_descriptors() and not any(todo)):
                return (name, *_normal(todo))
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                self._move(os.open("/", DIRECTORY_LOCATION), [])
            todo.extendleft(reversed(target.split("/")))
        return ()

    def _is_of_descriptors(self) -> bool:
        """Return whether `here` is /proc/PID/fd, whose links lead to open files, whatever paths they show."""
        return len(self.names) > 2 and self.names[0] == "proc" and self.names[-1] == "fd"

    def _enter(self, name: str) -> None:
        below = os.open(name, DIRECTORY_LOCATION, dir_fd=self.here)
        self._move(below, self.names[:-1] if name == ".." else [*self.names, name])
        self._check()

    def _move(self, directory: int, names: list[str]) -> None:
        os.close(self.here)
        self.here, self.names = directory, names

    def _read_link(self, name: str) -> str | None:
        """Return what a symlink holds; None for another file. Raises Untrusted for one that must not be followed."""
        state = os.stat(name, dir_fd=self.here, follow_symlinks=False)
        if not stat.S_ISLNK(state.st_mode):
            return None
        if not self.is_trusted and state.st_uid not in (0, os.geteuid()) and not self._may_follow(state):
            raise Untrusted(self._shown(name), Stranger("owner", state.st_uid))
        return os.readlink(name, dir_fd=self.here)

    def _may_follow(self, link: os.stat_result) -> bool:
        """Return whether to follow a symlink in `here` that is somebody else's."""
        around = os.fstat(self.here)
        is_shared = around.st_mode & stat.S_ISVTX and around.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if os.geteuid() != 0:
            return not is_shared or link.st_uid == around.st_uid or self.users.has_user(link.st_uid)
        return self.users.has_user(link.st_uid) or (
            link.st_uid == around.st_uid and self._is_owner_of_new_files(around)
        )

    def _check(self) -> None:
        """Raise Untrusted where root is about to rely on a directory of strangers."""
        if self.is_trusted or not self.checks_directories:
            return
        state = os.fstat(self.here)
        if is_plainly_ours(state) or (state.st_uid == 0 and state.st_mode & stat.S_ISVTX):
            return
        acl = read_acl(self.here) if state.st_mode & stat.S_IWGRP else b""
        stranger = find_stranger(state, self.users, acl, is_sticky_enough=True)
        if stranger and stranger.role == "owner" and self._is_owner_of_new_files(state):
            stranger = find_stranger(state, self.users.with_user(state.st_uid), acl, is_sticky_enough=True)
        if stranger:
            raise Untrusted(self._shown(), stranger)

    def _is_owner_of_new_files(self, state: os.stat_result) -> bool:
        """Return whether the owner of `here` is what root is there, or somebody whom its user namespace can't name."""
        return is_unmapped(self.here) or created_owner(self.here) == state.st_uid

    def _shown(self, *names: str) -> str:
        return "/" + "/".join([*self.names, *names])


def _normal(names: deque[str]) -> list[str]:
    """Return the names below one that doesn't exist, without `.` and `..`."""
    normal = os.path.normpath("/" + "/".join(names)).strip("/")
    return normal.split("/") if normal else []
