"""Housekeeping in the cache: what is in it, what may go, and what must not because somebody is at work with it."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.locks import lock, try_lock
from provisioner.filesystem.user_directories import user_directory
from provisioner.terminal.escaping import printable

TAGS = "tags"
"""The folder of notes of what tags named when they were last asked for: JSON with `reference` and `digest`."""

_RUNS = "runs"
_BLOBS = ("sha256", "sha512")


def cache_directory() -> Path:
    """`$PROVISION_CACHE_DIR`, else `provision` in the user's cache directory (XDG Base Directory Specification)."""
    if own := os.environ.get("PROVISION_CACHE_DIR"):
        return Path(own).absolute()
    directory = user_directory("XDG_CACHE_HOME", ".cache")
    if directory is None:
        raise MachineError("this user has no home directory to keep a cache in", "set HOME, or PROVISION_CACHE_DIR")
    return directory


CachedFileKind = Literal["blob", "partial", "tag"]


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache: a verified blob or document, a partial one, or the note of a tag.

    `size` is in bytes, `used` a time of the epoch: the last use.
    """

    path: Path
    kind: CachedFileKind
    name: str
    size: int
    used: float


def entries(directory: Path) -> list[CachedFile]:
    """All that is in the cache, what was used last first. Raises MachineError."""
    found = []
    with machine_errors(f"read the cache {printable(str(directory))}"):
        for folder in (*_BLOBS, "partial", TAGS):
            for path in filter(_is_ours, _files(directory / folder)):
                with suppress(FileNotFoundError):  # another process has taken it away
                    state = path.stat()
                    kind: CachedFileKind = "partial" if path.name.startswith(".") else _KINDS.get(folder, "blob")
                    found.append(CachedFile(path, kind, _name(path), state.st_size, state.st_mtime))
    return sorted(found, key=lambda entry: (-entry.used, entry.name))


_KINDS: dict[str, CachedFileKind] = {"partial": "partial", TAGS: "tag"}


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_ours(path: Path) -> bool:
    """Whether the name is of our making; with a dot in front where a writer was killed."""
    return bool(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}|\.[0-9a-f]{64,}\.\w+", path.name))


def _name(path: Path) -> str:
    if path.parent.name in _BLOBS:
        return f"{path.parent.name}:{path.name}"
    if path.parent.name != TAGS:
        return path.name
    try:
        note = json.loads(path.read_bytes())
        return f"{note['reference']} -> {note['digest']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return path.name


def prune(directory: Path, limit: int | None, unused_since: float | None = None) -> list[CachedFile]:
    """Take away what nobody is using: all that was last used before `unused_since`, then the least recently used until
    the rest has at most `limit` bytes; None is no such limit. What was taken away. Raises MachineError.
    """
    kept = entries(directory)
    total, spare = sum(entry.size for entry in kept), _oldest_run(directory)
    taken = []
    for entry in reversed(kept):
        is_old = unused_since is not None and entry.used < unused_since
        if (is_old or (limit is not None and total > limit)) and entry.used < spare:
            with machine_errors(f"clean the cache {printable(str(directory))}"):
                if _take(entry):
                    taken.append(entry)
                    total -= entry.size
    return taken


def _take(entry: CachedFile) -> bool:
    """Delete the file, unless another process holds it or has just used it."""
    try:
        handle = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(handle) or entry.path.stat().st_mtime > entry.used:
            return False
        entry.path.unlink()
    except FileNotFoundError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Keep others from pruning what this process uses meanwhile. A cache that can't be written is used all the same.

    The mark is a locked file, so that it ends with the process, and as old as the run.
    """
    handle, path = -1, None
    with suppress(OSError):
        (directory / _RUNS).mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=directory / _RUNS, prefix=".")
        path = Path(name)
        lock(handle)
        # Only a name without the dot is looked at: nobody takes it for a dead run's before it is locked.
        path = path.rename(path.with_name(path.name.lstrip(".")))
    try:
        yield
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _oldest_run(directory: Path) -> float:
    """When the oldest run that is still at work began, a time of the epoch; what dead ones left is taken away."""
    oldest = float("inf")
    for path in _files(directory / _RUNS):
        with suppress(OSError):
            began = path.stat().st_mtime
            with path.open("rb") as file:
                if not try_lock(file):
                    oldest = min(oldest, began)
                    continue
            if not path.name.startswith(".") or time.time() - began > 60:
                path.unlink()
    return oldest


def total_size(found: Sequence[CachedFile]) -> int:
    """The bytes of all these."""
    return sum(entry.size for entry in found)
