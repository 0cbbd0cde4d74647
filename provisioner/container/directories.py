"""The list of the directories that provision has made on this machine, for `provision list` alone.

It is the file `provision/directories` in the user's state directory (XDG Base Directory Specification) and holds one
JSON object a line, so a damaged line costs one entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.locks import locked_directory
from provisioner.filesystem.resolution import open_file
from provisioner.filesystem.user_directories import user_directory

_NAME = "directories"
_MOST_BYTES = 1 << 20
"""How much of the file is read: enough for some thousand directories."""
_LOCK_SECONDS = 2.0
"""How long to wait for other processes, which take milliseconds to change the list."""


@dataclass(frozen=True)
class KnownDirectory:
    """An entry of the list."""

    directory: str
    """The absolute path of the directory."""
    reference: str
    """The reference of the image that was provisioned there."""
    id: str = ""
    """The id in its record, by which it is found where it was moved; empty in older lists."""
    content: str = ""
    """The digest of its ownership record when that was written here (ownership.record.content_of); empty elsewhere."""

    @classmethod
    def parse(cls, line: str) -> KnownDirectory | None:
        """Return the entry on one line; None for a damaged one."""
        try:
            value = json.loads(line)
            entry = cls(value["directory"], value["reference"], value.get("id", ""), value.get("content", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        are_texts = all(isinstance(text, str) for text in (entry.directory, entry.reference, entry.id, entry.content))
        return entry if are_texts and os.path.isabs(entry.directory) and "\0" not in entry.directory else None


class Directories:
    """The list in `folder`. All methods raise OSError where it can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> list[KnownDirectory]:
        """Return all entries, the newest last; none where there is no list yet."""
        try:
            with open(open_file(self._folder / _NAME), "rb") as file:
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return []
        parsed = map(KnownDirectory.parse, data.decode(errors="replace").splitlines())
        return list({entry.directory: entry for entry in parsed if entry}.values())

    def add(self, entry: KnownDirectory) -> None:
        """Add an entry, in place of an older one for the same directory, whose `content` it keeps if that is the same.

        That is the case where both have the same id.
        """

        def changed(known: list[KnownDirectory]) -> list[KnownDirectory]:
            others = [old for old in known if old.directory != entry.directory]
            same = [old for old in known if old.directory == entry.directory and old.id == entry.id != ""]
            return [*others, replace(entry, content=same[0].content) if same and not entry.content else entry]

        self._change(changed)

    def update(self, dropped: Sequence[KnownDirectory], added: Sequence[KnownDirectory]) -> None:
        """Remove entries, and add others in the place of older ones for the same directories."""
        new = {entry.directory: entry for entry in added}

        def changed(known: list[KnownDirectory]) -> list[KnownDirectory]:
            stay = [new.pop(entry.directory, entry) for entry in known if entry not in dropped]
            return [*stay, *new.values()]

        self._change(changed)

    def drop(self, entries: Sequence[KnownDirectory]) -> None:
        """Remove these entries."""
        self.update(entries, ())

    def _change(self, change: Callable[[list[KnownDirectory]], list[KnownDirectory]]) -> None:
        """Replace the list by what `change` returns for it. Raises BlockingIOError where it stays locked."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_directory(self._folder, seconds=_LOCK_SECONDS):
            lines = "".join(f"{json.dumps(asdict(entry))}\n" for entry in change(self.entries()))
            replace_file(self._folder / _NAME, lines.encode("ascii"), 0o600)


def state_directory() -> Path:
    """Return the folder of the list: `provision` in the user's state directory. Raises OSError without a home."""
    directory = user_directory("XDG_STATE_HOME", ".local/state")
    if directory is None:
        raise OSError("this user has no home directory: set HOME, or XDG_STATE_HOME")
    return directory
