"""Counts what runs from a provisioned directory as `start.sh --list` does: one for each start.

start.sh writes `.provision/run/PID` (docs/start-sh.md, "Sessions"). Containers without such a file, whose
directory can't be written to or that were started without start.sh, are found by their processes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from provisioner.container.processes import Process
from provisioner.container_files import FOLDER, SESSIONS
from provisioner.filesystem.descriptors import ANY_FILE, closing_descriptor

_PROC = Path("/proc")
_START_SIZE = 64
"""The bytes of a session's file that are read: its first two lines begin in them."""


def find_sessions(directory: Path, pids: Iterable[int]) -> list[int]:
    """Return the process numbers of the sessions in a directory from which the processes `pids` run.

    A session without a file is named by one of its processes.
    """
    recorded = _recorded_sessions(directory)
    first: dict[object, int] = {}
    remaining = sorted(pids)
    for pid in remaining:
        ancestors = _ancestors(pid)
        if not recorded.keys() & ancestors:
            container = _container_of(pid, ancestors, remaining)
            if _stat_field(pid, 3):  # it may have ended meanwhile, and then has no ancestors
                first.setdefault(container, pid)
    return sorted([*(pid for pid, joined in recorded.items() if not joined), *first.values()])


def _recorded_sessions(directory: Path) -> dict[int, bool]:
    """Return the processes that have a valid file, each with whether it has joined another session (`--exec`)."""
    folder = directory / FOLDER / SESSIONS
    sessions = {}
    try:
        names = [name for name in os.listdir(folder) if name.isdecimal()]
    except OSError:
        return {}
    for name in names:
        with suppress(OSError):
            file = os.open(folder / name, ANY_FILE)
            with closing_descriptor(file):
                is_file = stat.S_ISREG(os.fstat(file).st_mode)
                lines = os.read(file, _START_SIZE).split(b"\n") if is_file else []
            pid = int(name)
            if len(lines) > 1 and lines[0] == _stat_field(pid, 22) and _stat_field(pid, 3) != b"Z":
                sessions[pid] = lines[1].startswith(b"exec ")
    return sessions


def _ancestors(pid: int) -> list[int]:
    """Return a process and those that have started or trace it, up to the first one of the system."""
    found: list[int] = []
    while pid > 1 and pid not in found:
        found.append(pid)
        process = Process.of(pid)
        pid = process.tracer if process and process.tracer else int(_stat_field(pid, 4) or 0)
    return found


def _container_of(pid: int, ancestors: list[int], pids: list[int]) -> object:
    """Return what all processes of a container have in common: a PID namespace, else the first of them."""
    with suppress(OSError):
        namespace = os.readlink(_PROC / str(pid) / "ns/pid")
        if namespace != os.readlink(_PROC / "self/ns/pid"):
            return namespace
    return [ancestor for ancestor in ancestors if ancestor in pids][-1]


def _stat_field(pid: int, number: int) -> bytes:
    """Return a field of /proc/PID/stat (see proc_pid_stat(5)), empty where the process has ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return b""
    return fields[number - 3] if len(fields) > number - 3 else b""
