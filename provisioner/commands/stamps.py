"""Stamps for make(1): empty files whose times say when DIR was right, or changed, the last time."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.container.access import opened_directory
from provisioner.container.stamps import (
    find_stamps,
    is_stamp,
    last_change,
    note_change,
    recorded_stamps,
    remember_stamps,
    remove_stamps,
    touch,
)
from provisioner.errors import UsageError, machine_errors
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.progress import Console

OPTIONS = ("--stamp", "--stamp-if-changed")


@dataclass(frozen=True)
class Stamp:
    """One stamp. Anything but an empty regular file at its path is left alone."""

    path: Path
    only_if_changed: bool
    """Whether it gets a new time only when DIR was changed since, or when it is missing."""

    @property
    def place(self) -> Path:
        """Its absolute path, without symlinks but for the last name."""
        return Path(os.path.realpath(self.path.parent), self.path.name)

    def check(self, directory: Path) -> None:
        """Raise UsageError where there can't be a stamp of `directory`."""
        option, shown = OPTIONS[self.only_if_changed], printable(str(self.path))
        if self.path.name in ("", "..") or str(self.path) == "." or os.path.isdir(self.path):
            raise UsageError(f"{option} {shown!r} names no file", f"give a name: {option} container.stamp")
        if self.place.is_relative_to(directory):
            beside = shell_word(f"{directory}.stamp")
            raise UsageError(f"{option} {shown} is in DIR, which may be replaced", f"name a file beside it: {beside}")
        if os.path.lexists(self.path) and not is_stamp(self.path):
            raise UsageError(f"{option} {shown}: this file isn't a stamp, which is empty", "give another name")
        folder = shell_word(str(self.path.parent))
        if not os.path.isdir(self.path.parent):
            raise UsageError(f"{option} {shown}: there is no directory {folder}", f"make it first: mkdir -p {folder}")
        if not os.access(self.path if os.path.lexists(self.path) else self.path.parent, os.W_OK):
            raise UsageError(f"{option} {shown} can't be written", "give another name")


def add_stamp_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about stamps."""
    always, changed = OPTIONS
    parser.add_argument(always, metavar="FILE", help="touch FILE whenever DIR is right: a target for make")
    parser.add_argument(
        changed, metavar="FILE", help="touch FILE when DIR was changed since FILE was, or FILE is missing"
    )


class Stamps:
    """The stamps of one run, and those that DIR knows from others."""

    def __init__(self, named: Sequence[Stamp], known: Sequence[Path], directory: Path) -> None:
        self._named, self._known, self._directory = named, known, directory

    @classmethod
    def of(
        cls, arguments: argparse.Namespace, directory: Path, trust: TrustedDirectories, is_there: Callable[[], bool]
    ) -> Stamps:
        """Return the stamps that the options name, and remove them unless DIR is there. Raises UsageError."""
        options = ((arguments.stamp, False), (arguments.stamp_if_changed, True))
        named = [Stamp(Path(path), only_if_changed) for path, only_if_changed in options if path is not None]
        for stamp in named:
            stamp.check(directory)
        places = [stamp.place for stamp in named]
        if len(set(places)) < len(places):
            raise UsageError(" and ".join(OPTIONS) + " name the same file", "leave out one of them")
        if arguments.lock and Path(os.path.realpath(arguments.lock)) in places:
            raise UsageError("--lock names the same file as a stamp, which is empty", "give another name")
        if named and not is_there():
            remove_stamps(places)
        return cls(named, find_stamps(directory, trust), directory)

    def update(self, trust: TrustedDirectories, *, is_changed: bool, is_new: bool) -> None:
        """Give the stamps their times, now that DIR is right. Raises MachineError."""
        if not (self._named or is_changed):
            return
        places = [stamp.place for stamp in self._named]
        with opened_directory(self._directory, trust) as folder, machine_errors("write the stamp"):
            assert folder is not None
            recorded = recorded_stamps(folder, self._directory)
            if (known := {*self._known, *places}) != set(recorded):
                remember_stamps(folder, self._directory, known)
            if is_changed:
                note_change(folder, self._directory, is_new=is_new)
            changed = last_change(folder)
        for stamp in self._named:
            with machine_errors(f"write {printable(str(stamp.path))}"):
                # One that DIR doesn't know is of another that was at this place.
                if not stamp.only_if_changed or stamp.place not in recorded or _is_older(stamp.place, changed):
                    touch(stamp.place)


def _is_older(path: Path, time: int) -> bool:
    """Return whether a file is missing, or its time is before `time`, in nanoseconds since 1970."""
    try:
        return path.lstat().st_mtime_ns < time
    except FileNotFoundError:
        return True


def report_change(directory: Path, trust: TrustedDirectories, known: Sequence[Path] = ()) -> None:
    """Write down that a directory was changed, for stamps; `known` are those of the one that it has replaced."""
    with opened_directory(directory, trust) as folder, suppress(OSError):  # a stamp is no reason to fail
        if folder is not None:
            if known:
                remember_stamps(folder, directory, known)
            note_change(folder, directory)


def drop_stamps(stamps: Sequence[Path], console: Console) -> None:
    """Remove the stamps of a directory that isn't there any more, and say so."""
    for path in remove_stamps(stamps):
        console.step(f"removed {printable(str(path))}, its stamp")
