"""Parts of the ownership record: the lines of a layer's files, which the processes that unpack it write.

Directories keep their inodes when trees are merged. So the lines of what is in a directory are copied into the record,
unless something below it has changed since they were written.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from provisioner.filesystem.descriptors import EXISTING_FILE, closing_descriptor
from provisioner.filesystem.seen_paths import SeenPaths
from provisioner.filesystem.walk import WalkedFile

_MAX_DIRECTORIES = 1 << 14
"""How many directories of a tree are known at most, those with the most lines; they take some 300 bytes each."""
_PIECE = 1 << 18
_SHARED_LEVEL = 3
"""Directories so far below the root are divided between processes: /usr/share/doc, say."""


class Share(NamedTuple):
    """Which lines of a tree a process writes, where several processes write them."""

    number: int
    """Of the process, from 0 on."""
    processes: int
    """How many there are."""


ALL = Share(0, 1)
"""All lines, where one process writes them."""


@dataclass(frozen=True)
class RecordPart:
    """The lines of a tree, in two files of a directory: one for the record, one for fakeroot's state."""

    name: bytes
    """The name of both files, with `.mtree` and `.state` behind it."""
    directories: dict[int, tuple[int, int, int, int]]
    """By the inode of a directory: where the lines of its content begin and end in the first file and in the second."""

    def open_file(self, folder: int, suffix: bytes, flags: int) -> int:
        """Open one of the files in the open directory `folder`."""
        return os.open(self.name + suffix, flags, 0o600, dir_fd=folder)


class PartIndex:
    """Records where the lines of directories begin and end, while both files of a part are written."""

    def __init__(self, part: RecordPart, record: BinaryIO, state: BinaryIO, share: Share) -> None:
        self._share = share
        self._divided = 0
        """How many directories of _SHARED_LEVEL were walked through or left out."""
        self._directories = part.directories
        self._record = record
        self._state = state
        self._open: list[tuple[int, int, int]] = []
        self._changing = 0
        """How many of the open directories, the upper ones, have a file below whose line may change."""
        self._least = 1

    def leaves_out(self, file: WalkedFile) -> bool:
        """Return whether another process writes the lines of a file, and of all that is in it.

        The directories at _SHARED_LEVEL are divided among the processes; the first process also writes the files that
        are in none of these. Call it once for each file: it counts those directories, and calls `leave_out`.
        """
        level, (number, count) = len(self._open), self._share
        if level > _SHARED_LEVEL:
            return False
        if not stat.S_ISDIR(file.stat.st_mode):
            is_left_out = number > 0
        else:
            self._divided += level == _SHARED_LEVEL
            is_left_out = level == _SHARED_LEVEL and self._divided % count != number
        if is_left_out:
            self.leave_out()
        return is_left_out

    def begin(self, inode: int) -> None:
        """Begin the content of a directory, whose own line has been written."""
        self._open.append((inode, self._record.tell(), self._state.tell()))

    def leave_out(self) -> None:
        """Record no lines for the directories that have begun and not ended.

        A line in them is missing here, or may change: that of a file with several names has their number.
        """
        self._changing = len(self._open)

    def end(self) -> None:
        """End the last directory that was begun."""
        inode, record, state = self._open.pop()
        end = self._record.tell()
        if self._share.number and len(self._open) < _SHARED_LEVEL:
            return  # it is the first process's
        if self._changing > len(self._open):
            self._changing = len(self._open)
        elif end - record >= self._least:
            self._directories[inode] = record, end, state, self._state.tell()
            if len(self._directories) > _MAX_DIRECTORIES // self._share.processes:
                self._forget_small_ones()

    def _forget_small_ones(self) -> None:
        self._least *= 4
        for inode, (start, end, _, _) in list(self._directories.items()):
            if end - start < self._least:
                del self._directories[inode]


class RecordParts:
    """The parts of the record of one tree, in the open directory `folder`, and which directories have changed since."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._files = ExitStack()
        self._parts: list[tuple[RecordPart, int, int]] = []
        self._changed = SeenPaths()
        self._last: bytes | None = None

    def add(self, part: RecordPart) -> None:
        """Add the part of a tree all directories of which are in this one. Raises OSError."""
        record, state = (
            self._files.enter_context(closing_descriptor(part.open_file(self._folder, suffix, EXISTING_FILE)))
            for suffix in (b".mtree", b".state")
        )
        self._parts.append((part, record, state))

    def discard(self, path: bytes) -> None:
        """Discard the lines of the directory `path` and of those above it, since something in it may change."""
        if path != self._last:
            self._last = path
            while self._changed.add(path) and path:
                path = path.rpartition(b"/")[0]

    def copy(self, path: bytes, inode: int, record: BinaryIO, state: BinaryIO) -> bool:
        """Write the lines of what is in a directory. Returns False where there are none, or they were discarded."""
        found = ((one, found) for one in self._parts if (found := one[0].directories.get(inode)))
        for (_, record_file, state_file), (start, end, state_start, state_end) in found:
            if path in self._changed:
                return False
            _copy(record_file, start, end, record)
            _copy(state_file, state_start, state_end, state)
            return True
        return False

    def close(self) -> None:
        """Close all files."""
        self._files.close()


def _copy(source: int, start: int, end: int, target: BinaryIO) -> None:
    while start < end:
        data = os.pread(source, min(_PIECE, end - start), start)
        target.write(data)
        start += len(data)
