"""The directories that provision made on this machine: a list of its own, since they know nothing of each other.

It is `provision/directories` in the user's state directory, one JSON object a line: its text can be read, and a damaged
line costs one entry. Nothing depends on it but `provision list`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.user_directories import user_directory

_NAME = "directories"
_MOST_BYTES = 1 << 20
"""What is read at the most: some thousand directories."""


@dataclass(frozen=True)
class KnownDirectory:
    """A directory, by its absolute path, and the reference that was provisioned there."""

    directory: str
    reference: str

    @classmethod
    def parse(cls, line: str) -> KnownDirectory | None:
        """The entry on one line; None where it is damaged."""
        try:
            value = json.loads(line)
            entry = cls(value["directory"], value["reference"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        texts = isinstance(entry.directory, str) and isinstance(entry.reference, str)
        return entry if texts and os.path.isabs(entry.directory) and "\0" not in entry.directory else None


class Directories:
    """The list in `folder`. All methods raise OSError where it can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> list[KnownDirectory]:
        """What is known, the newest last; nothing where there is no list yet."""
        try:
            with (self._folder / _NAME).open("rb") as file:
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return []
        found = map(KnownDirectory.parse, data.decode(errors="replace").splitlines())
        return list({entry.directory: entry for entry in found if entry}.values())

    def add(self, entry: KnownDirectory) -> None:
        """Note a directory, or what is there now."""
        self._change(lambda entries: [*(old for old in entries if old.directory != entry.directory), entry])

    def drop(self, entries: Sequence[KnownDirectory]) -> None:
        """Forget these."""
        self._change(lambda known: [entry for entry in known if entry not in entries])

    def _change(self, change: Callable[[list[KnownDirectory]], list[KnownDirectory]]) -> None:
        """Replace the list by a changed one, while nobody else does."""
        with self._locked():
            lines = "".join(f"{json.dumps(asdict(entry))}\n" for entry in change(self.entries()))
            replace_file(self._folder / _NAME, lines.encode("ascii"), 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock is on the folder, and ends with the process."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(folder)
            yield
        finally:
            os.close(folder)


def _lock(folder: int) -> None:
    """Others take milliseconds; whatever takes longer is no reason to wait. Raises BlockingIOError."""
    for _ in range(100):
        with suppress(BlockingIOError):
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.02)
    raise BlockingIOError(errno.EWOULDBLOCK, "somebody else holds the list of directories")


def state_directory() -> Path:
    """`provision` in the user's state directory (XDG Base Directory Specification). Raises OSError without a home."""
    directory = user_directory("XDG_STATE_HOME", ".local/state")
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, "this user has no home directory")
    return directory
