"""What tests must not leave behind: processes, mounts and staging directories."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from tests.support.fork_server import server_pids
from tests.support.mounts import mounts_below
from tests.support.tools import SESSION_MARK, TEST_MARK, open_directory


def processes_of_session(below: Path | None = None) -> list[str]:
    """Return the running processes that this test session started, without it and its servers.

    Each as `PID command line`, and behind it the test during which it was started, where its environment has that.
    With `below`: the processes that run in that directory, have it as root, or name it on their command line. This
    includes processes in containers, whose environment is cleared.
    """
    mark = f"{SESSION_MARK}={os.environ[SESSION_MARK]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes().split(b"\0") if below is None else []
            if below is None:
                ours = mark in environment
            else:
                places = [os.readlink(process / link) for link in ("cwd", "root")]
                ours = os.fsencode(below) in command or any(Path(place).is_relative_to(below) for place in places)
        except OSError:  # it has ended, or it is somebody else's
            continue
        # One that is just executing another program has no command line, but one that has ended has no directory.
        if ours and int(process.name) not in (os.getpid(), *server_pids()):
            tests = [word for word in environment if word.startswith(TEST_MARK.encode() + b"=")]
            found.append(f"{process.name} {os.fsdecode(b' '.join([*command.split(bytes(1)), *tests]))}")
    return found


def processes_left(below: Path | None = None) -> list[str]:
    """Like `processes_of_session`, but wait up to a minute until there are none."""
    deadline = time.monotonic() + 60
    while (processes := processes_of_session(below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


@contextmanager
def forks_noted() -> Iterator[list[int]]:
    """Yield a list that collects the IDs of forked processes. At the end, all must have been waited for."""
    pids: list[int] = []
    fork = os.fork

    def recording_fork() -> int:
        if pid := fork():
            pids.append(pid)
        return pid

    with patch("os.fork", recording_fork):
        yield pids
    for pid in pids:
        with pytest.raises(ChildProcessError):  # it has been waited for
            os.waitpid(pid, os.WNOHANG)


def open_descriptors() -> list[str]:
    """Return the paths of the files and directories that this process has open, without those of garbage.

    Sockets and pipes don't count: threads of test servers close them at any time.
    """
    gc.collect()
    return sorted(path for path in opened_paths() if path.startswith("/") and not path.startswith("/dev/"))


def opened_paths() -> list[str]:
    """Return what this process has open, as links of /proc/self/fd name it."""
    paths = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the list itself, or one that a thread has just closed
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
    return paths


def staging_below(path: Path) -> list[Path]:
    """Return the staging directories (`.NAME.provision`) below `path`, but for those in root filesystems."""
    found = []
    for directory, directories, _ in os.walk(path):
        found += [Path(directory, name) for name in directories if name.startswith(".") and name.endswith(".provision")]
        directories[:] = [name for name in directories if name != "rootfs"]
    # `.provision` itself belongs to a provisioned directory.
    return [path for path in found if path.name != ".provision"]


@contextmanager
def clean_place() -> Iterator[Path]:
    """Yield a new directory of the unprivileged user. No mount, process or staging directory may be left.

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
