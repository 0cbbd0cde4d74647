"""A user's directories for caches, settings and state (XDG Base Directory Specification)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def home_directory(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the user's home: HOME where that is an absolute path, else by passwd(5). None where there is none."""
    home = environment.get("HOME", "")
    if not os.path.isabs(home):
        with suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    return Path(home) if os.path.isabs(home) else None


def user_directory(
    variable: str, usual: str, environment: Mapping[str, str] = os.environ, program: str = "provision"
) -> Path | None:
    """Return the directory of `program` below the one that `variable` names, else below `usual` in the user's home.

    `variable` is one of the specification, such as XDG_CACHE_HOME; a relative path in it is ignored. Returns None
    where the user has no home.
    """
    named = environment.get(variable, "")
    if os.path.isabs(named):
        return Path(named, program)
    home = home_directory(environment)
    return home / usual / program if home else None
