"""Two names of a file system that change places in one step (renameat2(2) with RENAME_EXCHANGE)."""

from __future__ import annotations

import os

_RENAME_EXCHANGE = 2


def exchange(directory: int, name: str, other_directory: int, other_name: str) -> bool:
    """Exchange the files `name` and `other_name` of two open directories; return False where that can't be done.

    File systems such as NFS and SFTP, and older C libraries, don't know of it. Then nothing has changed.
    """
    try:
        import ctypes

        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (ImportError, OSError, AttributeError):
        return False
    names = os.fsencode(name), os.fsencode(other_name)
    return not renameat2(directory, names[0], other_directory, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
