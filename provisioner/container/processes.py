"""What runs from which directory, as /proc tells: no guest writes anything down, and none can be missed for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """What /proc tells of one process. What may not be read is empty, as is most of other users' processes."""

    pid: int
    tracer: int
    root: tuple[int, int] | None
    program: str
    command: tuple[bytes, ...]

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process of this number; None where it has ended."""
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
            identity(folder / "root"),
            _target(folder / "exe"),
            tuple(command.split(b"\0")[:-1]),
        )

    @property
    def proot_roots(self) -> Iterator[bytes]:
        """The rootfs that a proot was given, as it was typed; nothing for other programs."""
        if not self.command or os.path.basename(self.command[0]) != b"proot":
            return
        for option, value in zip(self.command, (*self.command[1:], b""), strict=True):
            if option in (b"-r", b"--rootfs"):
                yield value
            elif option.startswith((b"--rootfs=", b"-r=")):
                yield option.partition(b"=")[2]


def running(directories: Sequence[Path]) -> dict[Path, list[int]]:
    """The processes of each directory's guests, by number.

    They have DIR/rootfs as their root, run a program below it, or are traced by a proot of it; so is that proot.
    """
    processes = [process for process in map(Process.of, _numbers()) if process]
    proots = [process for process in processes if any(process.proot_roots)]
    found: dict[Path, list[int]] = {}
    for directory in directories:
        rootfs = directory / "rootfs"
        here = identity(rootfs)
        tracers = {process.pid for process in proots if here and here in _roots(process)}
        found[directory] = [
            process.pid
            for process in processes
            if {process.pid, process.tracer} & tracers
            or (here and process.root == here)
            or process.program.startswith(f"{rootfs}/")
        ]
    return found


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a directory, the same in all mount namespaces; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _roots(proot: Process) -> set[tuple[int, int] | None]:
    """The directories that a proot has as its rootfs; a relative one is below where it works."""
    base = _target(_PROC / str(proot.pid) / "cwd")
    return {identity(Path(base, os.fsdecode(root))) for root in proot.proot_roots}


def _numbers() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(_PROC) if name.isdecimal())
    except OSError:
        return []


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
