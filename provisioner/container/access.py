"""Opening a provisioned directory that may be relied on: nobody else owns it, or may write to it.

Everything is opened once, by a name in its parent's descriptor, and looked at by the descriptor from then on.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from provisioner.container.recovery import put_back
from provisioner.container_files import FOLDER, LINKS, LOG, ROOTFS, SCRIPT, SHARED_MEMORY
from provisioner.errors import MachineError, NotTrusted, TargetExists, machine_errors
from provisioner.filesystem.descriptors import (
    ANY_FILE,
    DIRECTORY,
    DIRECTORY_LOCATION,
    LOCATION,
    closing_descriptor,
    closing_on_error,
)
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.resolution import resolve, resolved
from provisioner.filesystem.trust import (
    NOBODY,
    Stranger,
    TrustedDirectories,
    TrustedUsers,
    Untrusted,
    find_stranger,
    is_plainly_ours,
    read_acl,
    users_in,
)
from provisioner.terminal.escaping import printable, shell_word

_LINKS = f"{LINKS}."
"""How names in FOLDER begin that may be of symlinks, as LOG may: start.sh follows none of them."""
_USED = re.compile(rb"[A-Za-z0-9._-]+")
"""How names in FOLDER look that provision and start.sh use."""
_LONGEST = 8 << 20
"""The most bytes that are read of a file in FOLDER: as many as a document of an image may have."""


@contextmanager
def trust_errors(what: str) -> Iterator[None]:
    """Turn Untrusted into NotTrusted with the command that helps, and other OSErrors into MachineError for `what`."""
    with machine_errors(what):
        try:
            yield
        except Untrusted as error:
            raise NotTrusted(f"{printable(error.path)} {error.stranger}", _hint(error)) from error


@contextmanager
def look_errors(directory: Path) -> Iterator[None]:
    """Turn errors of looking at a container into those of `trust_errors`, with a hint for a directory that is there."""
    try:
        with trust_errors(f"look at {printable(str(directory))}"):
            yield
    except MachineError as error:
        if getattr(error.__cause__, "errno", 0) == errno.EACCES:
            error.hint = "it is another user's: be that user, or root"
        raise


def _hint(error: Untrusted) -> str:
    """Return the command that takes the directory from the stranger, and the option that lifts the rule."""
    path, sudo = shell_word(error.path), "" if os.geteuid() == 0 else "sudo "
    if error.stranger.role == "owner":
        # Of a directory above, what is in it belongs to whoever it belongs to.
        what = f"-R {os.geteuid()}:{os.getegid()} {shell_word(error.all_in)}" if error.all_in else None
        fix = f"{sudo}chown {what or f'{os.geteuid()}:{os.getegid()} {path}'}"
    elif error.stranger.role == "link":
        fix = f"rm {path}"
    elif error.stranger.role == "everybody":
        fix = f"chmod o-w {path}"
    else:
        fix = f"chmod g-w {path}"
    return f"where it is yours: {fix}; where you trust all who may change it: --trust-dir, or PROVISION_TRUST_DIR"


def find_directory(path: str | Path, trust: TrustedDirectories = NOBODY) -> Path:
    """Return the absolute path without symlinks to which `path` leads, whether or not something is there.

    Puts back what a run was replacing there when it was killed.
    Raises NotTrusted where a stranger could decide where it leads, TargetExists for symlinks in a circle, and
    MachineError.
    """
    shown = printable(str(path))
    with trust_errors(f"look at {shown}"):
        try:
            with resolved(path, trust) as found:
                if len(found.missing) == 1:
                    put_back(found.directory, found.missing[0])
                return found.path
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise TargetExists(
                f"{shown} is a symlink that leads in a circle", "remove it, or choose another directory"
            ) from None


@contextmanager
def opened_directory(directory: Path, trust: TrustedDirectories = NOBODY) -> Iterator[int | None]:
    """Open a provisioned directory for the context, and its FOLDER: give the descriptor of the latter.

    Gives None where there is no such directory, or it has no FOLDER. Raises NotTrusted unless both are ours, with the
    files that start.sh uses, and MachineError.
    """
    with look_errors(directory):
        folder = _open_folder(directory, trust)
    if folder is None:
        yield None
        return
    with closing_descriptor(folder):
        yield folder


def _open_folder(directory: Path, trust: TrustedDirectories) -> int | None:
    found = resolve(directory, trust)
    with closing_descriptor(found.directory):
        if not found.missing:
            return open_folder(found.directory, found.path, trust)
        if len(found.missing) > 1 or not put_back(found.directory, found.missing[0]):
            return None
        with closing_descriptor(os.open(found.missing[0], DIRECTORY_LOCATION, dir_fd=found.directory)) as opened:
            return open_folder(opened, found.path, trust)


def open_folder(directory: int, path: Path, trust: TrustedDirectories) -> int | None:
    """Open the FOLDER of an open directory, which may be opened by O_PATH; return None where there is none.

    `path` is the directory's. Raises Untrusted unless both are ours, with start.sh and what is in FOLDER, and OSError.
    """
    try:
        folder = os.open(FOLDER, DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:  # a stranger's is refused as such
        if not trust.covers(path):
            _Container(directory, path).check(directory, path)
        raise
    with closing_on_error(folder):
        if not trust.covers(path):
            _Container(directory, path).check_all(folder)
    return folder


class _Container:
    """An open provisioned directory, which may be opened by O_PATH, while it is found out whether it is ours."""

    def __init__(self, directory: int, path: Path) -> None:
        self._directory = directory
        self._path = path

    @cached_property
    def _users(self) -> TrustedUsers:
        """The trusted users, with the owner that a file created beside the directory gets."""
        try:
            parent = os.open("..", DIRECTORY_LOCATION, dir_fd=self._directory)
        except PermissionError:  # it is closed to this user
            return TrustedUsers.of_this_process()
        with closing_descriptor(parent):
            return users_in(self._directory, beside=parent)

    def check_all(self, folder: int) -> None:
        """Raise Untrusted unless the directory, its open FOLDER, start.sh and the files of FOLDER are ours.

        start.sh checks the same (scripts/start/trust.sh): a former owner of the directory may have left files in it.
        """
        path = self._path / FOLDER
        self.check(self._directory, self._path)
        self.check(folder, path)
        self._check_name(self._directory, os.fsencode(SCRIPT), self._path / SCRIPT)
        for name in sorted(filter(_USED.fullmatch, names_in(folder))):
            self._check_name(folder, name, path / os.fsdecode(name))

    def _check_name(self, parent: int, name: bytes, path: Path) -> None:
        with suppress(FileNotFoundError):  # another process has just removed it
            file = os.open(name, LOCATION, dir_fd=parent)
            with closing_descriptor(file):
                self.check(file, path)

    def check(self, file: int, path: Path) -> None:
        """Raise Untrusted unless an open file of the directory, whose path is `path`, is ours."""
        state = os.fstat(file)
        if stat.S_ISLNK(state.st_mode):
            if path.name == LOG or path.name.startswith(_LINKS):
                return
            stranger: Stranger | None = Stranger("link")
        elif is_plainly_ours(state):
            return
        else:
            acl = read_acl(file) if state.st_mode & stat.S_IWGRP else b""
            # Guests of proot have it as their /dev/shm.
            is_shared = path == self._path / FOLDER / SHARED_MEMORY
            stranger = find_stranger(state, self._users, acl, is_sticky_enough=is_shared)
        if stranger:
            all_in = self._path / FOLDER if self._path / FOLDER in path.parents else path
            raise Untrusted(str(path), stranger, str(all_in))


def open_rootfs(folder: int) -> int:
    """Open the rootfs beside an open FOLDER. Raises OSError."""
    return os.open(f"../{ROOTFS}", DIRECTORY, dir_fd=folder)


def read_file(folder: int, name: str, shown: str) -> bytes | None:
    """Return the content of a file in an open directory; None where there is none. Raises MachineError.

    `shown` is its path for messages.
    """
    with machine_errors(f"read {printable(shown)}"):
        try:
            # A FIFO is not waited for.
            file = os.open(name, ANY_FILE, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise MachineError(f"{printable(shown)} is a symlink", "put the file itself there") from None
        with closing_descriptor(file), open(file, "rb", closefd=False) as opened:
            return opened.read(_LONGEST)
