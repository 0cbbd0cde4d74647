"""A user's directories for caches, settings and state (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def user_directory(variable: str, usual: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the directory `provision` below the one that `variable` names, else below `usual` in the user's home.

    `variable` is one of the specification, such as XDG_CACHE_HOME; a relative path in it is ignored. Returns None
    where the user has no home.
    """
    named = environment.get(variable, "")
    if os.path.isabs(named):
        return Path(named, "provision")
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(home, usual, "provision") if os.path.isabs(home) else None
