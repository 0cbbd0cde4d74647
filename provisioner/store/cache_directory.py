"""The directory of the cache: its folders are opened once, and files by a name in them, never through a symlink.

What this process makes there is for its user alone (folders 0700, files 0600). A cache that a stranger owns or may
write to is refused; single files of that kind are deleted, and count as not there.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from provisioner.errors import MachineError, machine_errors, no_room
from provisioner.filesystem.descriptors import ANY_FILE, DIRECTORY, DIRECTORY_LOCATION, closing_on_error
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.resolution import resolve
from provisioner.filesystem.trust import (
    TrustedUsers,
    Untrusted,
    check_ours,
    find_stranger,
    is_plainly_ours,
    read_acl,
    users_in,
)
from provisioner.terminal.escaping import printable, shell_word

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""The errors of opening what is a symlink, a socket, or below a file."""
_ELSEWHERE = "name another directory in PROVISION_CACHE_DIR"
_NO_ROOM_HINT = f"free some space there, or {_ELSEWHERE}"


class CacheDirectory:
    """The cache at `path`, which need not exist. Methods raise OSError, and Untrusted; threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._folders: dict[str, _Descriptor] = {}
        self._top: _Descriptor | None = None
        self._users: TrustedUsers | None = None
        """Whom to trust here; None where that is found out only for a file that isn't plainly ours."""
        self._deleted: list[_Descriptor] = []
        """Folders that were deleted while they were open: another thread may be about to use them."""

    def folder(self, name: str, *, create: bool = False) -> int:
        """Return the descriptor of a folder, which stays open. Raises FileNotFoundError where there is none."""
        with self._lock:
            known = self._folders.get(name)
            if known and os.fstat(known.number).st_nlink:
                return known.number
            opened = _Descriptor(self._open_folder(name, create))
            if known:
                self._deleted.append(known)
            self._folders[name] = opened
            return opened.number

    def open(self, folder: str, name: str) -> int:
        """Open a regular file for reading. Raises FileNotFoundError; a stranger's file is deleted and not there."""
        where = self.folder(folder)
        try:
            return self._accept(where, name, os.open(name, ANY_FILE, dir_fd=where))
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            self._refuse(where, name)

    def open_partial(self, folder: str, name: str, *, is_new: bool = False) -> int:
        """Open a file to read and to append to, and create it where it is missing; only a new one with `is_new`."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        where = self.folder(folder, create=True)
        for _ in range(2):
            try:
                file = os.open(name, flags | (os.O_EXCL if is_new else 0), 0o600, dir_fd=where)
                self._give_to_owner(file)
                return self._accept(where, name, file, may_have_links=False)
            except FileNotFoundError:  # a stranger's was deleted
                continue
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise
                with suppress(FileNotFoundError):
                    self._refuse(where, name)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def stat(self, folder: str, name: str) -> os.stat_result:
        """Return the state of a file, as lstat(2) does."""
        return os.stat(name, dir_fd=self.folder(folder), follow_symlinks=False)

    def files(self, folder: str) -> list[tuple[str, os.stat_result]]:
        """Return the regular files in a folder, by name and state; none where there is no such folder."""
        try:
            where = self.folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in map(os.fsdecode, names_in(where)):
            with suppress(FileNotFoundError):  # another process has deleted it
                state = os.stat(name, dir_fd=where, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    found.append((name, state))
        return found

    def delete(self, folder: str, name: str) -> None:
        """Delete a file. Raises FileNotFoundError."""
        os.unlink(name, dir_fd=self.folder(folder))

    def rename(self, folder: str, name: str, new_folder: str, new_name: str) -> None:
        """Rename a file, in place of another one."""
        new = self.folder(new_folder, create=True)
        os.rename(name, new_name, src_dir_fd=self.folder(folder), dst_dir_fd=new)

    def is_same(self, file: int, folder: str, name: str) -> bool:
        """Return whether an open file is the one that has this name now."""
        try:
            return os.path.samestat(os.fstat(file), self.stat(folder, name))
        except FileNotFoundError:
            return False

    @contextmanager
    def errors(self, what: str = "use") -> Iterator[None]:
        """Turn an OSError into a MachineError that names the cache and says how to use another directory."""
        try:
            with machine_errors(f"{what} the cache {printable(str(self.path))}"):
                yield
        except MachineError as error:
            cause = error.__cause__
            if isinstance(cause, Untrusted):
                where = shell_word(cause.path)
                fix = f"chown -R {os.geteuid()} {where}" if cause.stranger.role == "owner" else f"chmod -R go-w {where}"
                error.hint = f"where it is yours: {fix}; or {_ELSEWHERE}, or use none: --no-cache"
            elif isinstance(cause, OSError) and cause.errno in _FULL:
                error.hint = _NO_ROOM_HINT
            else:
                error.hint = f"{_ELSEWHERE}, or use none: --no-cache"
            raise

    def no_room(self, what: str, size: int, free: int) -> MachineError:
        """Return the error where `what` needs `size` bytes of the cache or more, and only `free` may be used."""
        return no_room(f"{what} in the cache {printable(str(self.path))}", size, free, _NO_ROOM_HINT)

    def _open_top(self, create: bool) -> _Descriptor:
        """Return the directory itself, open. Raises FileNotFoundError where it is missing and not to be created."""
        if self._top and os.fstat(self._top.number).st_nlink:
            return self._top
        found = resolve(self.path)
        here = _Descriptor(found.directory)
        if found.missing and not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        for name in found.missing:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=here.number)
            here = _Descriptor(os.open(name, DIRECTORY_LOCATION, dir_fd=here.number))
        self._users = None if is_plainly_ours(os.fstat(here.number)) else users_in(here.number)
        check_ours(here.number, str(self.path), users=self._users)
        if self._top:
            self._deleted.append(self._top)
        self._top = here
        return here

    def _open_folder(self, name: str, create: bool) -> int:
        top, is_new = self._open_top(create).number, False
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
                is_new = True
        folder = os.open(name, DIRECTORY, dir_fd=top)
        with closing_on_error(folder):
            if is_new:
                self._give_to_owner(folder)
            check_ours(folder, str(self.path / name), users=self._users)
        return folder

    def _accept(self, where: int, name: str, file: int, *, may_have_links: bool = True) -> int:
        """Return an open file that is ours; close and delete one that isn't and raise FileNotFoundError.

        A file that is to be changed must have no second name: it could be another file of ours, or of root.
        """
        with closing_on_error(file):
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode) or (state.st_nlink > 1 and not may_have_links):
                self._refuse(where, name)
            if not is_plainly_ours(state):
                acl = read_acl(file) if state.st_mode & stat.S_IWGRP else b""
                if find_stranger(state, self._users or TrustedUsers.of_this_process(), acl):
                    self._refuse(where, name)
        return file

    def _refuse(self, where: int, name: str) -> NoReturn:
        with suppress(IsADirectoryError, FileNotFoundError):
            os.unlink(name, dir_fd=where)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _give_to_owner(self, file: int) -> None:
        """Give what root has created in a user's cache to that user, who couldn't read it otherwise."""
        if os.geteuid() == 0 and self._top and (top := os.fstat(self._top.number)).st_uid != 0:
            with suppress(OSError):
                os.fchown(file, top.st_uid, top.st_gid)


class _Descriptor:
    """A file descriptor that is closed with the object."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)
            self.number = -1

    def __del__(self) -> None:
        self.close()
