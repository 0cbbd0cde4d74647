"""The files of the cache: list them, and delete old ones that no process is using."""

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
from provisioner.store.known_tags import TAGS
from provisioner.terminal.escaping import printable

_RUNS = "runs"
_BLOBS = ("sha256", "sha512")


def cache_directory() -> Path:
    """Return `$PROVISION_CACHE_DIR`, else `provision` in the user's cache directory (XDG Base Directory Specification).

    Raises MachineError where the user has no home directory.
    """
    if own := os.environ.get("PROVISION_CACHE_DIR"):
        return Path(own).absolute()
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


def entries(directory: Path) -> list[CachedFile]:
    """Return all files of the cache, the last used first. Raises MachineError."""
    found = []
    with machine_errors(f"read the cache {printable(str(directory))}"):
        for folder in (*_BLOBS, "partial", TAGS):
            for path in filter(_is_ours, _files(directory / folder)):
                with suppress(FileNotFoundError):  # another process has deleted it
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
    """Return whether a file has a name that this cache gives. One with a dot was left by a writer that was killed."""
    return bool(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}|\.[0-9a-f]{64,}\.\w+", path.name))


def _name(path: Path) -> str:
    """Return what users see of a file: a digest, its HEX where it is partial, or what a tag names."""
    if path.parent.name in _BLOBS:
        return f"{path.parent.name}:{path.name}"
    if path.parent.name != TAGS:
        return path.name
    try:
        fields = json.loads(path.read_bytes())
        return f"{fields['reference']} -> {fields['digest']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return path.name


def prune(directory: Path, limit: int | None, unused_since: float | None = None) -> list[CachedFile]:
    """Delete files that no process is using, and return them. Raises MachineError.

    All that were last used before `unused_since` go, then the least recently used, until the rest has at most `limit`
    bytes. None is no such limit.
    """
    found = entries(directory)
    total, oldest_run = total_size(found), _oldest_run(directory)
    deleted = []
    for entry in reversed(found):
        is_old = unused_since is not None and entry.used < unused_since
        if (is_old or (limit is not None and total > limit)) and entry.used < oldest_run:
            with machine_errors(f"clean the cache {printable(str(directory))}"):
                if delete_unused(entry):
                    deleted.append(entry)
                    total -= entry.size
    return deleted


def delete_unused(entry: CachedFile) -> bool:
    """Delete a file unless a process has locked it, or has used it since it was listed. Return whether it is gone."""
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
    """Keep other processes from pruning what this one uses meanwhile. A cache that can't be written isn't an error.

    The process has a locked file in `runs/`. The lock ends with the process; the file is as old as the run.
    """
    handle, path = -1, None
    with suppress(OSError):
        (directory / _RUNS).mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=directory / _RUNS, prefix=".")
        path = Path(name)
        lock(handle)
        # Names with a dot don't count, so that the file isn't mistaken for a dead run's before it is locked.
        path = path.rename(path.with_name(path.name.lstrip(".")))
    try:
        yield
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _oldest_run(directory: Path) -> float:
    """Return when the oldest run of now began, in seconds since the epoch, and delete the files of dead runs."""
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
    """Return the bytes of all these files."""
    return sum(entry.size for entry in found)
