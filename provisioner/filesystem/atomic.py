"""Atomic replacement of small files: a reader finds the old content or the new, even after a crash."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Replace the content of `path` with `data` and its permission bits with `mode`.

    The data is written to a temporary file beside it, synced, and renamed. A symlink is followed. Raises OSError.
    """
    target = path.resolve()
    # mkstemp creates the file with mode 0600: nobody else may read it before it has its own.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
