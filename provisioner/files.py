"""Small files that are whole or as they were, whoever writes and whenever it is killed; and where a user has them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Make `data` the content of `path`, with the permission bits `mode`; a symlink is followed. Raises OSError.

    Nobody may read what is written before it has its mode.
    """
    target = path.resolve()
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


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep others who ask for the same out of `directory`; ends with the process. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
