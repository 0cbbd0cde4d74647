"""Finds the processes that run from provisioned directories, in /proc.

start.sh records its own sessions in `.provision/run/`. This module also finds containers whose directory
can't be written, and those that were started without start.sh.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.container_files import ROOTFS

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """What /proc says about one process. What may not be read is empty: most of other users' processes."""

    pid: int
    tracer: int
    """The process that traces it by ptrace(2); 0 where there is none."""
    root: tuple[int, int] | None
    """Device and inode of its root directory."""
    program: str
    """The path of its executable."""
    command: tuple[bytes, ...]
    """Its command line."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Read the process with this number; return None where it has ended."""
        folder = _PROC / str(pid)
        try:
            status = (folder / "status").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            return None
        tracer = re.search(rb"^TracerPid:\s+(\d+)", status, re.MULTILINE)
        return cls(
            pid,
            int(tracer[1]) if tracer else 0,
            directory_id(folder / "root"),
            _link_target(folder / "exe"),
            tuple(command.split(b"\0")[:-1]),
        )

    @property
    def proot_roots(self) -> Iterator[bytes]:
        """The rootfs options on the command line of a proot, as they were typed; none for other programs."""
        if not self.command or os.path.basename(self.command[0]) != b"proot":
            return
        for option, value in zip(self.command, (*self.command[1:], b""), strict=True):
            if option in (b"-r", b"--rootfs"):
                yield value
            elif option.startswith((b"--rootfs=", b"-r=")):
                yield option.partition(b"=")[2]


def find_processes(directories: Sequence[Path]) -> dict[Path, list[int]]:
    """Return the numbers of the processes that run from each directory.

    Such a process has DIR/rootfs as its root directory, runs a program below it, is a proot with that rootfs, or is
    traced by one.
    """
    processes = [process for process in map(Process.of, _process_ids()) if process]
    proots = [process for process in processes if any(process.proot_roots)]
    pids: dict[Path, list[int]] = {}
    for directory in directories:
        rootfs = directory / ROOTFS
        rootfs_id = directory_id(rootfs)
        tracers = {process.pid for process in proots if rootfs_id and rootfs_id in _root_ids(process)}
        pids[directory] = [
            process.pid
            for process in processes
            if {process.pid, process.tracer} & tracers
            or (rootfs_id and process.root == rootfs_id)
            or process.program.startswith(f"{rootfs}/")
        ]
    return pids


def directory_id(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a directory, the same in all mount namespaces; None where there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _root_ids(proot: Process) -> set[tuple[int, int] | None]:
    """Return the ids of a proot's rootfs options; relative ones start at its working directory."""
    base = _link_target(_PROC / str(proot.pid) / "cwd")
    return {directory_id(Path(base, os.fsdecode(root))) for root in proot.proot_roots}


def _process_ids() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(_PROC) if name.isdecimal())
    except OSError:
        return []


def _link_target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
