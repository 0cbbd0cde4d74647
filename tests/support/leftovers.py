"""What tests must not leave behind: processes, mounts and staging directories."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from tests.support.mounts import mounts_below
from tests.support.tools import SESSION_MARK, open_directory


def processes_of_session(below: Path | None = None) -> list[str]:
    """The processes that this test session started and that still run, but for itself: `PID command line`.

    With `below`, those that run in that directory, have it as their root, or name it on their command line: this finds
    guests too, whose environment is cleared.
    """
    mark = f"{SESSION_MARK}={os.environ[SESSION_MARK]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if below is None:
                ours = mark in (process / "environ").read_bytes().split(b"\0")
            else:
                places = [os.readlink(process / link) for link in ("cwd", "root")]
                ours = os.fsencode(below) in command or any(Path(place).is_relative_to(below) for place in places)
        except OSError:  # it has ended, or it is somebody else's
            continue
        # A process that has ended and waits for its parent has no command line.
        if ours and command and int(process.name) != os.getpid():
            found.append(f"{process.name} {os.fsdecode(command.replace(bytes(1), b' '))}")
    return found


def processes_left(below: Path | None = None) -> list[str]:
    """Like `processes_of_session`, but what is about to end gets some seconds for that."""
    deadline = time.monotonic() + 5
    while (processes := processes_of_session(below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


@contextmanager
def forks_noted() -> Iterator[list[int]]:
    """The numbers of the processes that are forked meanwhile, of which none may be left in the end."""
    pids: list[int] = []
    fork = os.fork

    def noted() -> int:
        if pid := fork():
            pids.append(pid)
        return pid

    with patch("os.fork", noted):
        yield pids
    for pid in pids:
        with pytest.raises(ChildProcessError):  # it has been waited for
            os.waitpid(pid, os.WNOHANG)


def staging_below(path: Path) -> list[Path]:
    """The staging directories (`.NAME.provision`) left below `path`; root filesystems are not looked into."""
    found = []
    for directory, directories, _ in os.walk(path):
        found += [Path(directory, name) for name in directories if name.startswith(".") and name.endswith(".provision")]
        directories[:] = [name for name in directories if name != "rootfs"]
    # `.provision` itself is a part of what was provisioned.
    return [path for path in found if path.name != ".provision"]


@contextmanager
def clean_place() -> Iterator[Path]:
    """A new directory of the unprivileged user; AssertionError at the end when something below it still works or waits.

    The directory is removed in any case, unless something is mounted there.
    """
    place = open_directory("test")
    try:
        yield place
        assert not (mounts := mounts_below(place)), f"left mounted: {mounts}"
        assert not (processes := processes_left(place)), f"left running: {processes}"
        assert not (staging := staging_below(place)), f"left behind: {staging}"
    finally:
        if not mounts_below(place):
            parent = os.open(place.parent, DIRECTORY)
            try:
                remove_tree(parent, os.fsencode(place.name))  # closed directories too, whoever runs the tests
            finally:
                os.close(parent)
