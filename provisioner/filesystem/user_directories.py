"""Where a user keeps caches, settings and state (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def user_directory(variable: str, usual: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """`provision` in what `variable` names, else in `usual` below the user's home (XDG Base Directory Specification).

    None where the user has no home: the current directory is no place for it.
    """
    named = environment.get(variable, "")
    if os.path.isabs(named):
        return Path(named, "provision")
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(home, usual, "provision") if os.path.isabs(home) else None
