"""The file that a blob is downloaded to, locked by one process at a time; others wait, say so, and give up."""

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
TELL_SECONDS = 2.0
"""How long a process waits for another one, which downloads the same blob, before it says so."""
WAIT_SECONDS = 60.0
"""How long nothing may come into the other's file before a process downloads the blob by itself."""
_POLL_SECONDS = 0.05


class PartialFile(NamedTuple):
    """The open and locked file that a blob is being written to."""

    file: io.FileIO
    name: str
    """Its name in the folder of partial files."""
    is_own: bool = False
    """Whether no other process looks for it, so that it doesn't stay."""


def lock_partial(files: CacheDirectory, digest: Digest, tell: Callable[[str], None]) -> PartialFile:
    """Open the partial file of a blob and lock it, or one of our own where nothing comes into it for WAIT_SECONDS.

    `tell` is called with what is waited for. Raises OSError.
    """
    has_told = False
    while True:
        file = io.FileIO(files.open_partial(PARTIAL, digest.hex), "a+")
        try:
            has_lock, has_told = _wait(file, digest, tell, has_told)
            if has_lock and files.is_same(file.fileno(), PARTIAL, digest.hex):
                return PartialFile(file, digest.hex)
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it made it whole, or took it away; or it is waited for no longer
        if not has_lock:
            tell(f"blob {digest.short} is downloaded once more: nothing came for {WAIT_SECONDS:.0f} s")
            return _own_partial(files, digest)


def _wait(file: io.FileIO, digest: Digest, tell: Callable[[str], None], has_told: bool) -> tuple[bool, bool]:
    """Wait for the lock as long as the file grows; return whether this process has it, and whether it has told."""
    began = grown = time.monotonic()
    size = -1
    while not try_lock(file):
        now, now_size = time.monotonic(), os.fstat(file.fileno()).st_size
        if now_size != size:
            size, grown = now_size, now
        if now - began >= TELL_SECONDS and not has_told:
            has_told = True
            tell(_describe_wait(file, digest))
        if now - grown >= WAIT_SECONDS:
            return False, has_told
        time.sleep(_POLL_SECONDS)
    return True, has_told


def _own_partial(files: CacheDirectory, digest: Digest) -> PartialFile:
    """Create a file with a name that nobody can know before; `prune` takes it for what a killed run has left."""
    name = f".{digest.hex}.{os.urandom(8).hex()}"
    file = io.FileIO(files.open_partial(PARTIAL, name, is_new=True), "a+")
    lock(file)
    return PartialFile(file, name, is_own=True)


def _describe_wait(file: io.FileIO, digest: Digest) -> str:
    holder = lock_holder(file)
    name = f" ({printable(process_name(holder))})" if holder and process_name(holder) else ""
    who = f"process {holder}{name}" if holder else "another process"
    once_more = f"when nothing comes for {WAIT_SECONDS:.0f} s, it is downloaded once more"
    return f"waiting for {who}, which is downloading blob {digest.short}; {once_more}"
