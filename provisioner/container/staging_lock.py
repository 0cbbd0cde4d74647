"""The lock of a staging directory: one run at a time makes or replaces a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from provisioner.container.recovery import check_staging, staging_directory
from provisioner.errors import TargetExists
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor, closing_on_error
from provisioner.filesystem.locks import lock, lock_holder
from provisioner.terminal.escaping import printable

_SECONDS = 1.0
"""How long the child processes of a killed run may take to end: they hold its lock, too."""


def lock_staging(parent: int, target: Path, report_waiting: Callable[[str], None] | None) -> int:
    """Create the staging directory of `target` in its open parent, lock it and return it open.

    Raises TargetExists when another run still holds the lock after _SECONDS, unless there is `report_waiting`: then
    that is called once with a line about the other run, which is waited for. Raises OSError.
    """
    name = os.fsencode(staging_directory(target).name)
    deadline, is_reported = time.monotonic() + _SECONDS, False
    while True:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            check_staging(parent, target)
        try:
            return _open_and_lock(parent, name)
        except FileNotFoundError:  # another run has finished, and removed it, between two of our steps
            continue
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_SECONDS / 100)
                continue
            message = f"another run is at work on {printable(str(target))}{_holder(parent, name)}"
            if report_waiting is None:
                raise TargetExists(message, "wait until it has finished") from None
            if not is_reported:
                report_waiting(f"{message}: waiting for it (Ctrl-C: don't)")
                is_reported = True
            time.sleep(_SECONDS / 10)


def _open_and_lock(parent: int, name: bytes) -> int:
    """Open and lock the staging directory. Raises FileNotFoundError where it is gone, BlockingIOError if locked."""
    folder = os.open(name, DIRECTORY, dir_fd=parent)
    with closing_on_error(folder):
        lock(folder, seconds=0)
        if not os.path.samestat(os.fstat(folder), os.stat(name, dir_fd=parent, follow_symlinks=False)):
            raise FileNotFoundError
    return folder


def _holder(parent: int, name: bytes) -> str:
    """Return which process holds the lock, for a message; empty where that is unknown."""
    with suppress(OSError), closing_descriptor(os.open(name, DIRECTORY, dir_fd=parent)) as folder:
        if pid := lock_holder(folder):
            return f", process {pid}"
    return ""
