"""Stamps for make(1): empty files whose times say when DIR was right, or changed, the last time."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import UsageError, machine_errors
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.terminal.escaping import printable

OPTIONS = ("--stamp", "--stamp-if-changed")


@dataclass(frozen=True)
class Stamp:
    """One stamp. Anything but an empty regular file at its path is left alone."""

    path: Path
    only_if_changed: bool
    """Whether it gets a new time only when DIR was changed, or when it is missing."""

    def check(self) -> None:
        """Raise UsageError where something else than a stamp is at the path."""
        option, shown = OPTIONS[self.only_if_changed], printable(str(self.path))
        if self.path.is_dir() or self.path.name in ("", "..") or str(self.path) == ".":
            raise UsageError(f"{option} {shown!r} names no file", f"give a name: {option} container.stamp")
        if os.path.lexists(self.path) and not self._is_stamp():
            raise UsageError(f"{option} {shown}: this file isn't a stamp, which is empty", "give another name")

    def remove(self) -> None:
        """Remove the stamp, if it is there: DIR isn't. Raises MachineError."""
        if self._is_stamp():
            with machine_errors(f"remove {printable(str(self.path))}"), suppress(FileNotFoundError):
                self.path.unlink()

    def touch(self, *, is_changed: bool) -> None:
        """Create the stamp, or give it the present time. Raises MachineError."""
        if self.only_if_changed and not is_changed and self.path.exists():
            return
        with machine_errors(f"write {printable(str(self.path))}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with closing_descriptor(os.open(self.path, flags, 0o666)) as file:
                os.utime(file)

    def _is_stamp(self) -> bool:
        try:
            status = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and not status.st_size


def add_stamp_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about stamps."""
    always, changed = OPTIONS
    parser.add_argument(always, metavar="FILE", help="touch FILE whenever DIR is right: a target for make")
    parser.add_argument(changed, metavar="FILE", help="touch FILE when DIR was changed, or FILE is missing")


def stamps_of(arguments: argparse.Namespace, is_there: Callable[[], bool]) -> Sequence[Stamp]:
    """Return the stamps that the options name, and remove them unless DIR is there.

    Raises UsageError where one can't be one, and MachineError.
    """
    named = ((arguments.stamp, False), (arguments.stamp_if_changed, True))
    stamps = [Stamp(Path(path), only_if_changed) for path, only_if_changed in named if path is not None]
    for stamp in stamps:
        stamp.check()
    if stamps and not is_there():
        for stamp in stamps:
            stamp.remove()
    return stamps
