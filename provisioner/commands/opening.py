"""What every kind of source is opened with: the options, the cache, the lock of --locked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.source_options import SourceOptions
from provisioner.errors import MachineError, UsageError
from provisioner.image.digest import Digest
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.image.lockfile import Lock
    from provisioner.store.blobs import BlobCache

_HINT_LOCK = "lock this source: provision --lock FILE SOURCE DIR"


@dataclass(frozen=True)
class Opening:
    """What an opener of OPENERS works with."""

    options: SourceOptions
    console: Console
    stack: ExitStack
    """Closes what was opened, at the end of the run."""

    def cache(self) -> BlobCache:
        """Return the cache, or the directory in its place; call it once. At the end it is pruned to its limit."""
        from provisioner.store.blobs import BlobCache, TemporaryBlobCache
        from provisioner.store.prune import cache_directory, in_use

        if self.options.scratch:
            return TemporaryBlobCache(self.options.scratch)
        cache = BlobCache(cache_directory(), self.console.step)
        self.console.detail(f"cache: {printable(str(cache.files.path))}")
        self.stack.callback(_prune_to_limit, cache.files.path, self.options.config.cache_limit, self.console)
        self.stack.enter_context(in_use(cache.files))
        with suppress(MachineError):  # no reason to fail
            cache.delete_abandoned()
        return cache

    def lock(self, reference: str) -> Lock | None:
        """Return the lock of `--locked`, None without. Raises UsageError, also for the lock of another source."""
        from provisioner.image.lockfile import Lock

        return Lock.read(self.options.locked, reference) if self.options.locked else None

    def locks(self, word: str) -> tuple[Lock, ...]:
        """Return the locks of `--locked` for a file of this machine: only their digests count, wherever it is.

        Raises UsageError.
        """
        from provisioner.image.lockfile import Lock

        return Lock.read_all(self.options.locked, word) if self.options.locked else ()

    def expected_digests(self, locks: Sequence[Lock], *, is_rootfs: bool = False) -> tuple[tuple[Digest, ...], str]:
        """Return what a file may be by --sha256 or by one of the locks, and who says so. Raises UsageError.

        The lock of an image says nothing of the file that the image is in; it is no lock of a root file system.
        """
        given = self.options.sha256
        locked = tuple(lock.digest for lock in locks if (lock.digest,) in lock.layers.values())
        if is_rootfs and locks and not locked:
            raise UsageError(f"{printable(str(self.options.locked))} is no lock of a root file system", _HINT_LOCK)
        if locked and given and given not in locked:
            raise UsageError("--sha256 and the lock contradict each other", "leave out one of them")
        if given:
            return (given,), "--sha256"
        return (locked, "the lock") if locked else ((), "")


def _prune_to_limit(directory: Path, limit: int | None, console: Console) -> None:
    """Prune the cache to its limit, whether the run succeeded or not."""
    from provisioner.store.prune import prune, total_size

    if limit is None:
        return
    try:
        removed = prune(directory, limit)
    except MachineError as error:  # no reason to fail
        console.step(f"the cache stays above its limit: {error.message}")
        return
    if removed:
        console.step(f"removed {size_text(total_size(removed))} from the cache, to keep its limit")
