"""Housekeeping in the cache: what is in it, what may go, and what must not because somebody is at work with it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.locks import lock, try_lock
from provisioner.filesystem.user_directories import user_directory
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.partial import PARTIAL

TAGS = "tags"
"""The folder of notes of what tags named when they were last asked for: JSON with `reference` and `digest`."""

_RUNS = "runs"
_BLOBS = ("sha256", "sha512")
_NOTE_LIMIT = 1 << 16


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
    cache, found = CacheDirectory(directory), []
    with cache.errors("read"):
        for folder in (*_BLOBS, PARTIAL, TAGS):
            for name, state in cache.files(folder):
                if _is_ours(name):
                    kind: CachedFileKind = "partial" if name.startswith(".") else _KINDS.get(folder, "blob")
                    shown = _shown_name(cache, folder, name)
                    found.append(CachedFile(cache.path / folder / name, kind, shown, state.st_size, state.st_mtime))
    return sorted(found, key=lambda entry: (-entry.used, entry.name))


_KINDS: dict[str, CachedFileKind] = {PARTIAL: "partial", TAGS: "tag"}


def _is_ours(name: str) -> bool:
    """Whether the name is of our making; with a dot in front where a writer was killed."""
    return bool(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}|\.[0-9a-f]{64,}\.\w+", name))


def _shown_name(cache: CacheDirectory, folder: str, name: str) -> str:
    if folder in _BLOBS:
        return f"{folder}:{name}"
    if folder != TAGS:
        return name
    try:
        with open(cache.open(folder, name), "rb") as file:
            note = json.loads(file.read(_NOTE_LIMIT))
        return f"{note['reference']} -> {note['digest']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return name


def prune(directory: Path, limit: int | None, unused_since: float | None = None) -> list[CachedFile]:
    """Take away what nobody is using: all that was last used before `unused_since`, then the least recently used until
    the rest has at most `limit` bytes; None is no such limit. What was taken away. Raises MachineError.
    """
    cache = CacheDirectory(directory)
    kept = entries(directory)
    total, spare = sum(entry.size for entry in kept), _oldest_run(cache)
    taken = []
    for entry in reversed(kept):
        is_old = unused_since is not None and entry.used < unused_since
        if (is_old or (limit is not None and total > limit)) and entry.used < spare:
            with cache.errors("clean"):
                if _take(cache, entry):
                    taken.append(entry)
                    total -= entry.size
    return taken


def _take(cache: CacheDirectory, entry: CachedFile) -> bool:
    """Delete the file, unless another process holds it or has just used it."""
    folder, name = entry.path.parent.name, entry.path.name
    try:
        handle = cache.open(folder, name)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(handle) or cache.stat(folder, name).st_mtime > entry.used:
            return False
        cache.delete(folder, name)
    except FileNotFoundError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def in_use(cache: CacheDirectory) -> Iterator[None]:
    """Keep others from pruning what this process uses meanwhile. A cache that can't be written is used all the same.

    The mark is a locked file, so that it ends with the process, and as old as the run.
    """
    name = os.urandom(8).hex()
    handle = -1
    with suppress(OSError):
        handle = cache.open_partial(_RUNS, f".{name}", is_new=True)
        lock(handle)
        # Only a name without the dot is looked at: nobody takes it for a dead run's before it is locked.
        cache.rename(_RUNS, f".{name}", _RUNS, name)
    try:
        yield
    finally:
        if handle >= 0:
            with suppress(OSError):
                cache.delete(_RUNS, name)
            os.close(handle)


def _oldest_run(cache: CacheDirectory) -> float:
    """When the oldest run that is still at work began, a time of the epoch; what dead ones left is taken away."""
    oldest = float("inf")
    with suppress(OSError):
        for name, state in cache.files(_RUNS):
            with suppress(OSError), closing_descriptor(cache.open(_RUNS, name)) as file:
                if not try_lock(file):
                    oldest = min(oldest, state.st_mtime)
                elif not name.startswith(".") or time.time() - state.st_mtime > 60:
                    cache.delete(_RUNS, name)
    return oldest


def total_size(found: Sequence[CachedFile]) -> int:
    """The bytes of all these."""
    return sum(entry.size for entry in found)
