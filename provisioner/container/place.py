"""The place that a container is made at: what its file system must have, and what a container on it will lack."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from provisioner.container_files import FOLDER, RECORD
from provisioner.errors import MachineError, NotTrusted, TargetExists, machine_errors
from provisioner.filesystem.atomic import write_new
from provisioner.filesystem.descriptors import NEW_FILE
from provisioner.filesystem.trust import NOBODY, TrustedDirectories, Untrusted, check_ours
from provisioner.ownership.policy import Ownership
from provisioner.terminal.escaping import printable, shell_word

_NO_SYMLINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_HINT = "choose a directory on another file system; on Android one in Termux's home, not shared storage"
_LINK, _FILE = "probe-link", "probe"


def check_free(target: Path, typed: str) -> None:
    """Raise TargetExists unless nothing is at a path, or an empty directory; `typed` is how the user has named it.

    Raises MachineError where that can't be seen.
    """
    shown = printable(typed)
    with machine_errors(f"look at {shown}"):
        try:
            with os.scandir(target) as entries:
                is_free = next(entries, None) is None
            if is_free and os.path.samefile(target, "."):
                raise TargetExists(f"{shown} is the current directory", "name a directory below it")
        except FileNotFoundError:
            is_free = not os.path.lexists(target)
        except NotADirectoryError:
            if not os.path.lexists(target):
                what = f"{shown}: a part of this path is a file"
                raise TargetExists(what, "choose another directory") from None
            is_free = False
    if not is_free:
        remove = f"provision remove {shell_word(typed)}"
        raise TargetExists(f"{shown} exists", f"choose another directory; to remove a container: {remove}")


def check_outside(target: Path) -> None:
    """Raise TargetExists where a container would be made inside of another one, and be gone with that."""
    if _has_record(target):
        return
    if around := next(filter(_has_record, target.parents), None):
        shown, outer = printable(str(target)), printable(str(around))
        what = f"{shown} would be inside of the container {outer}, and be removed with it"
        raise TargetExists(what, "choose a directory outside of it")


def _has_record(path: Path) -> bool:
    """Return whether a directory has a record that its owner has made: in /tmp, anybody could put one."""
    try:
        if os.lstat(path / FOLDER).st_uid != os.stat(path).st_uid:
            return False
    except OSError:
        return False
    return os.path.isfile(path / FOLDER / RECORD)


def check_new(directory: int, target: Path, trust: TrustedDirectories = NOBODY) -> None:
    """Check the open, empty directory that is to become `target`, by `check_place` and `check_permissions`.

    Raises NotTrusted where others may write to what is created there, whatever its mode; where `trust` covers `target`,
    neither that nor permissions are checked.
    """
    shown = printable(str(target.parent))
    check_place(directory, shown)
    if trust.covers(target):
        return
    try:
        check_ours(directory, shown, owner=os.fstat(directory).st_uid)
    except Untrusted as error:
        raise NotTrusted(
            f"in {shown}, whatever is created {error.stranger}",
            "choose a directory on another file system, or trust all of them: --trust-dir",
        ) from error
    check_permissions(directory, shown)


def check_place(directory: int, shown: str) -> None:
    """Raise MachineError unless a rootfs can be made in an open, empty directory; `shown` is its path for messages.

    Programs must start there, and it needs symlinks and names that differ in case alone. Raises OSError where no file
    can be made at all.
    """
    if os.fstatvfs(directory).f_flag & os.ST_NOEXEC:
        raise MachineError(
            f"{shown} is on a file system that is mounted noexec: nothing in it could be started",
            f"choose another directory, or as root: mount -o remount,exec {shown}",
        )
    try:
        os.symlink("/target", _LINK, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            raise
        raise MachineError(f"{shown} is on a file system without symlinks", _HINT) from error
    has_absolute_links = _reads_link(_LINK, directory)
    os.unlink(_LINK, dir_fd=directory)
    if not has_absolute_links:
        raise MachineError(f"{shown} is on a file system that refuses absolute symlinks", _HINT)
    write_new(directory, _FILE, b"", 0o700)
    mode, has_cases = os.stat(_FILE, dir_fd=directory).st_mode, not _exists(_FILE.upper(), directory)
    os.unlink(_FILE, dir_fd=directory)
    if not mode & stat.S_IXUSR:
        raise MachineError(f"{shown} is on a file system without execute permission", _HINT)
    if not has_cases:
        raise MachineError(f"{shown} is on a file system that doesn't tell upper from lower case", _HINT)


def check_permissions(directory: int, shown: str) -> None:
    """Raise MachineError unless the file system of an open, empty directory keeps permissions; `shown` is its path."""
    write_new(directory, _FILE, b"", 0o600)
    mode = os.stat(_FILE, dir_fd=directory).st_mode
    os.unlink(_FILE, dir_fd=directory)
    if mode & 0o077:
        raise MachineError(f"{shown} is on a file system without permissions", _HINT)


def limits_of(directory: int, ownership: Ownership) -> list[str]:
    """Return what a container in an open directory will lack, a sentence each. `ownership` is the policy for it.

    Nothing is left in the directory. Raises OSError.
    """
    limits = []
    if os.geteuid() == 0 and not ownership.exact:
        limits.append("the owners of the image can't be set here: all files get the same owner (provision doctor)")
    if ownership.exact and os.fstatvfs(directory).f_flag & os.ST_NOSUID:
        limits.append("this file system is mounted nosuid: in chroot, sudo and su can't become another user")
    if not _keeps_times(directory):
        limits.append("this file system doesn't keep the times of files: they are those of now")
    return limits


def _keeps_times(directory: int) -> bool:
    """Return whether a file has the time that was set before it was closed. Some file systems of FUSE write later."""
    with open(os.open(_FILE, NEW_FILE, 0o600, dir_fd=directory), "wb", buffering=0) as file:
        file.write(b"content")
        os.utime(file.fileno(), ns=(0, 0))
    has_time = os.stat(_FILE, dir_fd=directory).st_mtime_ns == 0
    os.unlink(_FILE, dir_fd=directory)
    return has_time


def _reads_link(name: str, directory: int) -> bool:
    """Return whether an absolute symlink can be read. Newer versions of sshfs refuse that."""
    try:
        return os.readlink(name, dir_fd=directory).startswith("/")
    except PermissionError:
        return False


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
