"""The file that a blob is downloaded to, locked by one process at a time; others wait, but not forever."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from provisioner.filesystem.locks import lock, lock_holder, process_name, try_lock
from provisioner.image.digest import Digest
from provisioner.store.cache_directory import CacheDirectory
from provisioner.terminal.escaping import printable

PARTIAL = "partial"
"""The folder of partial files, each called by the HEX of its blob's digest."""
REPORT_SECONDS = 2.0
"""How long a process waits for another one, which downloads the same blob, before it reports that."""
WAIT_SECONDS = 60.0
"""How long nothing may come into the other's file before a process downloads the blob by itself."""
_POLL_SECONDS = 0.05
_ABANDONED_SECONDS = 60
"""How long after its last write a file that no process has locked counts as abandoned."""


class PartialFile(NamedTuple):
    """The open and locked file that a blob is being written to."""

    file: io.FileIO
    name: str
    """Its name in the folder of partial files."""
    is_own: bool = False
    """Whether its name is unpredictable: no other process can continue the download, so that it is deleted."""


def lock_partial(files: CacheDirectory, digest: Digest, report: Callable[[str], None]) -> PartialFile:
    """Open the partial file of a blob and lock it, or one of our own where nothing comes into it for WAIT_SECONDS.

    `report` is called with messages about the wait. Raises OSError.
    """
    is_reported = False
    while True:
        file = io.FileIO(files.open_partial(PARTIAL, digest.hex), "a+")
        try:
            has_lock, is_reported = _wait(file, digest, report, is_reported)
            if has_lock and files.is_same(file.fileno(), PARTIAL, digest.hex):
                return PartialFile(file, digest.hex)
        except BaseException:
            file.close()
            raise
        file.close()  # the process that had the lock has renamed or deleted the file; or the wait is over
        if not has_lock:
            report(f"blob {digest.short} is downloaded once more: nothing came for {WAIT_SECONDS:.0f} s")
            return own_partial(files, digest)


def _wait(file: io.FileIO, digest: Digest, report: Callable[[str], None], is_reported: bool) -> tuple[bool, bool]:
    """Wait for the lock as long as the file grows; return whether it was got, and whether the wait was reported."""
    began = grown = time.monotonic()
    size = -1
    while not try_lock(file):
        now, now_size = time.monotonic(), os.fstat(file.fileno()).st_size
        if now_size != size:
            size, grown = now_size, now
        if now - began >= REPORT_SECONDS and not is_reported:
            is_reported = True
            report(_describe_wait(file, digest))
        if now - grown >= WAIT_SECONDS:
            return False, is_reported
        time.sleep(_POLL_SECONDS)
    return True, is_reported


def own_partial(files: CacheDirectory, digest: Digest | None = None) -> PartialFile:
    """Create and lock a file with an unpredictable name, which `prune` deletes if a killed run has left it.

    `digest` is that of the content which is going to be written, if it is known. Raises OSError.
    """
    name = f".{digest.hex if digest else os.urandom(32).hex()}.{os.urandom(8).hex()}"
    file = io.FileIO(files.open_partial(PARTIAL, name, is_new=True), "a+")
    lock(file)
    return PartialFile(file, name, is_own=True)


def is_abandoned(folder: str, name: str, used: float) -> bool:
    """Return whether a file of the cache, last written at `used`, is one of `own_partial` that a killed run has left.

    That is so if nobody has locked it.
    """
    return folder == PARTIAL and name.startswith(".") and time.time() - used >= _ABANDONED_SECONDS


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write all of `data`: one call may write less. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _describe_wait(file: io.FileIO, digest: Digest) -> str:
    holder = lock_holder(file)
    name = f" ({printable(process_name(holder))})" if holder and process_name(holder) else ""
    who = f"process {holder}{name}" if holder else "another process"
    once_more = f"when nothing comes for {WAIT_SECONDS:.0f} s, it is downloaded once more"
    return f"waiting for {who}, which is downloading blob {digest.short}; {once_more}"
