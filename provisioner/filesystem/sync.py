"""Writing files to the disk before anybody relies on them: what is only in memory is lost with the power.

A file system may store a rename long before it stores the content of the renamed files (ext4 does so after half a
minute), so that files are empty after a power cut. sync(2) is no help: it waits for all file systems of the machine,
and reports no errors.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, closing_descriptor
from provisioner.filesystem.walk import walk
from provisioner.threads import BackgroundThread

WAITING_SECONDS = 3.0
"""How long it may take before `waiting` is called."""

_DISK_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk may answer to content that was taken into memory before."""
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""The errors of file systems that can't sync a directory alone."""


def sync_below(directory: int, waiting: Callable[[int | None], None]) -> None:
    """Write everything below an open directory to the disk, and return when it is stored there.

    Where the system can, all of its file system is written at once, which is much faster than file by file. Raises
    OSError where the disk fails; with Linux 5.8 or later also for what it failed to write earlier, but not before
    `directory` was opened, so that has to be open before the first file is written. After WAITING_SECONDS `waiting` is
    called once with the number of bytes that the machine has yet to write, None where that is unknown.
    """
    failures: list[BaseException] = []

    def sync() -> None:
        try:
            _sync(directory)
        except BaseException as failure:  # noqa: BLE001  the waiting thread raises it
            failures.append(failure)

    # A process that waits for a disk can't be interrupted, so a thread of its own does that.
    thread = BackgroundThread(sync, "sync")
    if not thread.try_start():
        _sync(directory)
        return
    thread.join(WAITING_SECONDS)
    if thread.is_alive():
        waiting(unwritten_bytes())
        thread.join()
    if failures:
        raise failures[0]


def sync_directories(paths: Iterable[Path | str], base: int | None = None) -> None:
    """Store the names in these directories on the disk, as far as they may be opened. Raises OSError.

    Relative paths start at the open directory `base`, if there is one.
    """
    for path in paths:
        try:
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
        except PermissionError:  # who may write to a directory needn't be allowed to read it
            continue
        with closing_descriptor(opened):
            sync_directory(opened)


def sync_directory(directory: int) -> None:
    """Store the names in an open directory on the disk, unless it can't be synced by itself. Raises OSError."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def unwritten_bytes() -> int | None:
    """Return how many bytes in memory are waiting for a disk, of all processes; None where that is unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return 1024 * sum(int(count) for count in re.findall(r"^(?:Dirty|Writeback): *(\d+) kB$", text, re.MULTILINE))


def call_syncfs(directory: int) -> bool:
    """Write the file system of an open directory to the disk with syncfs(2); return False where there is none.

    Android has it since version 9. It isn't called by its number: earlier versions end processes that do so.
    """
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, OSError, AttributeError):
        return False
    if syncfs(directory):
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return False
        raise OSError(number, os.strerror(number))
    return True


def run_sync_program(directory: int) -> bool:
    """Write the file system of an open directory to the disk with sync(1) and its option -f.

    Returns False where that program is missing, or fails for another reason than the disk.
    """
    program = shutil.which("sync")
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "-f", f"/proc/self/fd/{directory}"],
            pass_fds=[directory],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError:  # it can't be started
        return False
    message = os.fsdecode(done.stderr)
    for number in _DISK_ERRORS if done.returncode else ():
        if os.strerror(number) in message or (number == errno.EIO and "I/O error" in message):
            raise OSError(number, os.strerror(number))
    return done.returncode == 0


def sync_each_file(directory: int) -> bool:
    """Write all files and directories below an open directory to the disk, one after the other, and return True."""
    for file in filter(None, walk(directory)):
        if file.is_directory:
            with closing_descriptor(os.open(file.name, DIRECTORY, dir_fd=file.directory)) as opened:
                sync_directory(opened)
        elif stat.S_ISREG(file.stat.st_mode):
            with closing_descriptor(os.open(file.name, EXISTING_FILE, dir_fd=file.directory)) as opened:
                os.fsync(opened)
    return True


METHODS = (call_syncfs, run_sync_program, sync_each_file)
"""Ways to write what is below a directory to the disk, the best first. They return False where they don't exist."""


def _sync(directory: int) -> None:
    for sync in METHODS:
        if sync(directory):
            return
