"""Opening a provisioned directory that may be relied on: nobody else owns it, or may write to it.

Everything is opened once, by a name in its parent's descriptor, and looked at by the descriptor from then on.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.errors import MachineError, NotTrusted, TargetExists, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, closing_descriptor
from provisioner.filesystem.resolution import PASSED, resolve, resolved
from provisioner.filesystem.trust import (
    NOBODY,
    TrustedDirectories,
    TrustedUsers,
    Untrusted,
    check_ours,
    is_plainly_ours,
    users_in,
)
from provisioner.terminal.escaping import printable

FOLDER = ".provision"
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


def _hint(error: Untrusted) -> str:
    """Return the command that takes the directory from the stranger, and the option that lifts the rule."""
    path, sudo = shlex.quote(printable(error.path)), "" if os.geteuid() == 0 else "sudo "
    if error.stranger.role == "owner":
        fix = f"{sudo}chown -R {os.geteuid()}:{os.getegid()} {path}"
    elif error.stranger.role == "everybody":
        fix = f"chmod o-w {path}"
    else:
        fix = f"chmod g-w {path}"
    return f"where it is yours: {fix}; where you trust all who may change it: --trust-dir, or PROVISION_TRUST_DIR"


def find_directory(path: str | Path, trust: TrustedDirectories = NOBODY) -> Path:
    """Return the absolute path without symlinks to which `path` leads, whether or not something is there.

    Raises NotTrusted where a stranger could decide where it leads, TargetExists for symlinks in a circle, and
    MachineError.
    """
    shown = printable(str(path))
    with trust_errors(f"look at {shown}"):
        try:
            with resolved(path, trust) as found:
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

    Gives None where there is no such directory, or it has no FOLDER. Raises NotTrusted unless both are ours, and
    MachineError.
    """
    with trust_errors(f"look at {printable(str(directory))}"):
        folder = _open_folder(directory, trust)
    if folder is None:
        yield None
        return
    with closing_descriptor(folder):
        yield folder


def _open_folder(directory: Path, trust: TrustedDirectories) -> int | None:
    found = resolve(directory, trust)
    with closing_descriptor(found.directory):
        if found.missing:
            return None
        return open_folder(found.directory, found.path, trust)


def open_folder(directory: int, path: Path, trust: TrustedDirectories) -> int | None:
    """Open the FOLDER of an open directory, which may be opened by O_PATH; return None where there is none.

    `path` is the directory's. Raises Untrusted unless both are ours, and OSError.
    """
    try:
        folder = os.open(FOLDER, DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:  # a stranger's is refused as such
        if not trust.covers(path):
            check_ours(directory, str(path), users=_users_beside(directory))
        raise
    try:
        if not trust.covers(path):
            users = _users_beside(directory, folder)
            check_ours(directory, str(path), users=users)
            check_ours(folder, str(path / FOLDER), users=users)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _users_beside(*directories: int) -> TrustedUsers | None:
    """Return the trusted users, with the owner that a file created beside the first directory gets.

    None where nobody needs to know, since all these directories are plainly ours.
    """
    if all(is_plainly_ours(os.fstat(directory)) for directory in directories):
        return None
    try:
        parent = os.open("..", PASSED, dir_fd=directories[0])
    except PermissionError:  # it is closed to this user
        return TrustedUsers.of_this_process()
    with closing_descriptor(parent):
        return users_in(directories[0], beside=parent)


def read_file(folder: int, name: str, shown: str) -> bytes | None:
    """Return the content of a file in an open directory; None where there is none. Raises MachineError.

    `shown` is its path for messages.
    """
    with machine_errors(f"read {printable(shown)}"):
        try:
            # A FIFO is not waited for.
            file = os.open(name, EXISTING_FILE | os.O_NONBLOCK, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise MachineError(f"{printable(shown)} is a symlink", "put the file itself there") from None
        with closing_descriptor(file), open(file, "rb", closefd=False) as opened:
            return opened.read(_LONGEST)
