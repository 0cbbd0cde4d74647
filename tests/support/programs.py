"""Static programs of a few system calls, for this machine and for those that qemu emulates: guests without a shell."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from provisioner.image.platform import Platform
from provisioner.launch.assembler import Assembler
from provisioner.launch.static_helper import assembler_for
from tests.support.tools import find_program, need

_NUMBERS = """
             amd64  386  arm arm64 riscv64
clone           56  120  120   220     220
execve          59   11   11   221     221
exit_group     231  252  248    94      94
getpid          39   20   20   172     172
kill            62   37   37   129     129
nanosleep       35  162  162   101     101
setsid         112   66   66   157     157
wait4           61  114  114   260     260
"""
SIGCHLD = 17


@dataclass(frozen=True)
class End:
    """How a process ends: with a status, or by a signal that it sends to itself."""

    number: int
    by_signal: bool = False

    @property
    def status(self) -> int:
        """What a shell says of it."""
        return 128 + self.number if self.by_signal else self.number


@dataclass(frozen=True)
class Child:
    """A process that the program starts."""

    end: End
    is_awaited: bool = True
    sleeps: bool = False
    """Whether it sleeps for five minutes before it ends, so that the program leaves it running."""
    in_own_session: bool = False


def program_that(architecture: str, end: End, children: tuple[Child, ...] = (), *, executes: str = "") -> bytes:
    """Return an executable that starts `children`, one after the other, and ends as `end` says.

    With `executes`, it executes itself by that path before it ends: the kernel keeps the process.
    """
    p = assembler_for(Platform("linux", architecture), _NUMBERS)
    p.read("argc", "stack")
    p.jump_if("argc", "==", 2, "end")
    for index, child in enumerate(children):
        p.call("clone", SIGCHLD, 0, 0, 0, 0)
        p.jump_if("result", "!=", 0, f"started {index}")
        if child.in_own_session:
            p.call("setsid")
        if child.sleeps:
            _sleep(p)
        _end(p, child.end)
        p.label(f"started {index}")
        if child.is_awaited and not child.sleeps:
            p.call("wait4", "result", 0, 0, 0)
    if executes:
        _execute(p, executes)
    p.label("end")
    _end(p, end)
    return p.executable()


def _end(p: Assembler, end: End) -> None:
    if end.by_signal:
        p.call("getpid")
        p.call("kill", "result", end.number)
        # A signal that comes late, or one that is ignored, must not let it go on.
        _sleep(p)
    p.call("exit_group", end.number)


def _sleep(p: Assembler) -> None:
    p.frame("time", 0)
    p.write("time", 0, 300)
    p.write("time", p.word, 0)
    p.call("nanosleep", "time", 0)


def _execute(p: Assembler, path: str) -> None:
    """Execute `path` with one argument more, by which it knows that it is there already."""
    text = path.encode().ljust(len(path) // 4 * 4 + 4, b"\0")
    p.frame("path", 64)
    for at in range(0, len(text), 2):
        p.copy("text", int.from_bytes(text[at : at + 2], "little"))
        p.write("path", at, "text", 2)
    p.frame("argv", 32)
    p.write("argv", 0, "path")
    p.write("argv", p.word, "path")
    p.write("argv", 2 * p.word, 0)
    p.call("execve", "path", "argv", 0)


def emulator(architecture: str) -> str:
    """Return the path of qemu's program for static programs of an architecture."""
    name = {"amd64": "x86_64", "386": "i386", "arm64": "aarch64"}.get(architecture, architecture)
    need(f"qemu-{name}-static")
    return find_program(f"qemu-{name}-static") or ""


def program_for_kernel(release: tuple[int, int, int], *, bits: int = 64, order: str = "<", system: int = 0) -> bytes:
    """Return an ELF program of nothing but a note segment, with another note in front of the ABI tag."""
    other = struct.pack(f"{order}III4s4s", 4, 2, 3, b"GNU\0", b"id\0\0")
    notes = other + struct.pack(f"{order}III4sIIII", 4, 16, 1, b"GNU\0", system, *release)
    ident = bytes([*b"\x7fELF", bits // 32, 1 if order == "<" else 2, 1]).ljust(16, b"\0")
    if bits == 64:
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    else:
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 3, 40, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 4, 84, 0, 0, len(notes), len(notes), 4, 4)
    return ident + header + segment + notes
