"""The policy for owners and modes, decided once, by trying: whether this process can give files to other users."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY, NEW_FILE, closing_descriptor, directory_descriptor
from provisioner.filesystem.kind import Kind


@dataclass(frozen=True)
class Ownership:
    """How the owners, modes and devices of an image are set."""

    exact: bool
    """Whether they are set as the image has them, which root can do (real or fakeroot's), but not everywhere.

    Otherwise all files belong to the user, who may read, write and delete them, and empty files stand in for devices.
    """

    @classmethod
    def in_directory(cls, directory: Path | int) -> Ownership:
        """Return the policy for new files in a directory, a path or open, found by trying. Nothing is left in it.

        Being root is not enough: containers often run without CAP_CHOWN, CAP_FOWNER or CAP_DAC_OVERRIDE
        (capabilities(7)), a user namespace may have no second user, and some file systems keep no owners. Under
        fakeroot all of it works. Raises OSError where not even files can be made.
        """
        user, group = _other_id("uid_map", os.geteuid()), _other_id("gid_map", os.getegid())
        if user is None or group is None:
            return cls(exact=False)
        with directory_descriptor(directory) as parent, _probe(parent) as probe:
            return cls(exact=_can_give_files_away(probe, user, group))

    def mode(self, kind: Kind, mode: int, has_owners: bool = True) -> int:
        """Return the permission bits to set on a file that has `mode` in the image.

        `has_owners` is whether its owner and group could be set, too: a file that stayed root's gets no setuid and
        setgid, which would make it setuid to another user than the image says.
        """
        if not self.exact:
            return mode | (0o700 if kind is Kind.DIRECTORY else 0o600)
        return mode if has_owners else mode & ~(stat.S_ISUID | stat.S_ISGID)


WITHOUT_ROOT = Ownership(exact=False)


_PROBE, _FILE, _DIRECTORY, _FILE_BELOW = "probe-owners", "file", "directory", "directory/file"


def _can_give_files_away(directory: int, user: int, group: int) -> bool:
    """Return whether a file can be given to another user and then changed, and files be made in that user's directory.

    `directory` is open, empty and ours. Raises OSError where not even files can be made there.
    """
    os.mkdir(_DIRECTORY, 0o700, dir_fd=directory)
    with closing_descriptor(os.open(_FILE, NEW_FILE, 0o600, dir_fd=directory)) as file:
        try:
            os.fchown(file, user, group)
            os.fchmod(file, 0o6755)
            os.utime(file, ns=(0, 0))
            os.chown(_DIRECTORY, user, group, dir_fd=directory)
            os.chmod(_DIRECTORY, 0, dir_fd=directory)
            os.close(os.open(_FILE_BELOW, NEW_FILE, 0o600, dir_fd=directory))
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            return False
        state = os.fstat(file)  # some file systems of FUSE ignore chown(2)
    return (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (user, group, 0o6755)


@contextmanager
def _probe(parent: int) -> Iterator[int]:
    """Return a context that gives a new open directory in `parent`, and then removes it with what was made in it."""
    os.mkdir(_PROBE, 0o700, dir_fd=parent)
    try:
        with closing_descriptor(os.open(_PROBE, DIRECTORY, dir_fd=parent)) as directory:
            yield directory
            with suppress(FileNotFoundError, PermissionError):  # nothing is there where it may not be made
                os.unlink(_FILE_BELOW, dir_fd=directory)
            with suppress(FileNotFoundError):
                os.rmdir(_DIRECTORY, dir_fd=directory)
            with suppress(FileNotFoundError):
                os.unlink(_FILE, dir_fd=directory)
    finally:
        os.rmdir(_PROBE, dir_fd=parent)


_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)


def _other_id(table: str, own: int) -> int | None:
    """Return a user or group other than `own` that this process's user namespace maps, or None (user_namespaces(7))."""
    try:
        lines = Path("/proc/self", table).read_text(encoding="ascii").splitlines()
    except OSError:
        return own + 1
    for first, _, count in (map(int, line.split()) for line in lines):
        for candidate in (first, first + 1):
            if candidate != own and candidate < first + count:
                return candidate
    return None
