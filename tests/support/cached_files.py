"""Files of a cache with a time of their last use, and short texts that name them."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.store.prune import CachedFile, list_files

NOW = 1_700_000_000
DAY = 86400


def put(cache: Path, name: str, size: int, age: float) -> Path:
    """Create a file of the cache that was last used `age` seconds before NOW, and return its path."""
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age, NOW - age))
    return path


def names(found: list[CachedFile]) -> str:
    """Return the first letter of each file's name."""
    return "".join(entry.path.name[0] for entry in found)


def left(cache: Path) -> str:
    """Return the first letters of the files in the cache, the last used first."""
    return names(list_files(cache))
