"""A tree that can be read whole by its owner, whatever permissions its files and directories have."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from provisioner.filesystem.descriptors import allow_entering, change_mode, open_readable
from provisioner.rootfs.tree import Place, Tree


class ReadableTree(Tree):
    """A tree whose closed directories are open to this user until the context ends, if they are the user's."""

    def __init__(self, root: Path | int) -> None:
        super().__init__(root)
        self._former_modes: list[tuple[bytes, int]] = []
        """Paths of directories whose permissions were changed, those above first, and what these were."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all directories, also to the user where they were."""
        while self._former_modes:
            path, mode = self._former_modes.pop()
            with suppress(OSError):
                place = self.locate(path, create=False)
                change_mode(place.directory, place.name, mode)
        super().__exit__(kind, error, trace)

    def _open_name(self, name: bytes, directory: int, above: Sequence[bytes], create: bool) -> int | bytes:
        with suppress(FileNotFoundError):
            state = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode) and (mode := allow_entering(directory, name, state)) is not None:
                self._former_modes.append((b"/".join([*above, name]), mode))
        return super()._open_name(name, directory, above, create)

    def _open_file(self, place: Place) -> int:
        return open_readable(place.directory, place.name, self.lstat(place))
