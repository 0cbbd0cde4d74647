"""Lists the files of the cache, and deletes old ones that no process is using."""

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
from provisioner.store.known_tags import TAG_FILE_LIMIT, TAGS
from provisioner.store.partial import PARTIAL, is_abandoned

_RUNS = "runs"
_BLOBS = ("sha256", "sha512")


def cache_directory() -> Path:
    """Return `$PROVISION_CACHE_DIR`, else `provision` in the user's cache directory (XDG Base Directory Specification).

    A `~` in the former is the home directory: what sets it may be no shell. Raises MachineError where the user has no
    home directory.
    """
    if own := os.environ.get("PROVISION_CACHE_DIR"):
        return Path(os.path.expanduser(own)).absolute()
    directory = user_directory("XDG_CACHE_HOME", ".cache")
    if directory is None:
        raise MachineError("this user has no home directory to keep a cache in", "set HOME, or PROVISION_CACHE_DIR")
    return directory


CachedFileKind = Literal["blob", "partial", "tag"]


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache."""

    path: Path
    kind: CachedFileKind
    """A verified blob or document, one that is not complete, or what a tag named last."""
    name: str
    """What users see: a digest, or `reference -> digest`."""
    size: int
    """Bytes."""
    used: float
    """The last use, in seconds since the epoch."""
    reference: str = ""
    """Of a tag: what it is the tag of, or the URL."""
    digest: str = ""
    """Of a tag: what it named last."""


def list_files(directory: Path) -> list[CachedFile]:
    """Return all files of the cache, the last used first. Raises MachineError."""
    cache, found = CacheDirectory(directory), []
    with cache.errors("read"):
        for folder in (*_BLOBS, PARTIAL, TAGS):
            for name, state in cache.files(folder):
                if _is_ours(name):
                    kind: CachedFileKind = "partial" if name.startswith(".") else _KINDS.get(folder, "blob")
                    path, tag = cache.path / folder / name, ("", "")
                    shown = f"{folder}:{name}" if folder in _BLOBS else name
                    if folder == TAGS and (tag := _read_tag(cache, name)) != ("", ""):
                        shown = f"{tag[0]} -> {tag[1]}"
                    found.append(CachedFile(path, kind, shown, state.st_size, state.st_mtime, *tag))
    return sorted(found, key=lambda entry: (-entry.used, entry.name))


_KINDS: dict[str, CachedFileKind] = {PARTIAL: "partial", TAGS: "tag"}


def _is_ours(name: str) -> bool:
    """Return whether a name is one that this cache chooses. One with a dot is of a writer that was killed."""
    return bool(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}|\.[0-9a-f]{64,}\.\w+", name))


def _read_tag(cache: CacheDirectory, name: str) -> tuple[str, str]:
    """Return the reference of a tag, or a URL, and the digest that it named last; two empty texts for a damaged one."""
    try:
        with open(cache.open(TAGS, name), "rb") as file:
            fields = json.loads(file.read(TAG_FILE_LIMIT))
        return str(fields["reference"]), str(fields["digest"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "", ""


def prune(directory: Path, limit: int | None, unused_since: float | None = None) -> list[CachedFile]:
    """Delete files that no process is using, and return them. Raises MachineError.

    These are files that killed processes have left and no other looks for, and those last used before `unused_since`;
    then the least recently used ones, until the rest has at most `limit` bytes. None means no limit.
    """
    cache = CacheDirectory(directory)
    found = list_files(directory)
    total, oldest_run = total_size(found), _oldest_run(cache)
    deleted = []
    for entry in reversed(found):
        is_old = unused_since is not None and entry.used < unused_since
        is_old = is_old or is_abandoned(entry.path.parent.name, entry.path.name, entry.used)
        if (is_old or (limit is not None and total > limit)) and entry.used < oldest_run:
            with cache.errors("clean"):
                if delete_unused(cache, entry):
                    deleted.append(entry)
                    total -= entry.size
    return deleted


def delete_unused(cache: CacheDirectory, entry: CachedFile) -> bool:
    """Delete a file unless a process has locked it, or has used it since it was listed. Return whether it is gone."""
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
    """Keep other processes from pruning files that this one uses during the context.

    A cache that can't be written isn't an error. The process has a locked file in `runs/`. The lock ends
    with the process; the file is as old as the run.
    """
    name = os.urandom(8).hex()
    handle = -1
    try:
        with suppress(OSError):
            handle = cache.open_partial(_RUNS, f".{name}", is_new=True)
            lock(handle)
            # Names with a dot don't count, so that the file isn't mistaken for a dead run's before it is locked.
            cache.rename(_RUNS, f".{name}", _RUNS, name)
        yield
    finally:
        if handle >= 0:
            for other in (name, f".{name}"):
                with suppress(OSError):
                    cache.delete(_RUNS, other)
            os.close(handle)


def _oldest_run(cache: CacheDirectory) -> float:
    """Return when the oldest run at work began, in seconds since the epoch, and delete the files of dead runs."""
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
    """Return the bytes of all these files."""
    return sum(entry.size for entry in found)
