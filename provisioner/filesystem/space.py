"""The free space of file systems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

UNLIMITED = 2**63 - 1
"""What is free where a file system doesn't report it, as some of FUSE."""


class FreeSpace(NamedTuple):
    """What may still be written to a file system, or UNLIMITED."""

    size: int
    """In bytes. Blocks that are reserved for root don't count, not even for root."""
    files: int
    """How many files may still be created: free inodes. UNLIMITED where the file system has no fixed number of them."""

    @property
    def default_limit(self) -> int:
        """Return nine tenths of the size: what may be written where nobody has said how much it is going to be."""
        return self.size * 9 // 10


def free_space(file: int | str | Path) -> FreeSpace:
    """Return the free space of the file system that a file or directory is on; `file` is its descriptor or path.

    A user's quota may leave less than that, which only writing tells (EDQUOT). Raises OSError.
    """
    state = os.statvfs(file)
    size = state.f_bavail * state.f_frsize if state.f_blocks else UNLIMITED
    return FreeSpace(size, state.f_favail if state.f_files else UNLIMITED)
