"""The proot probe: a small executable that start.sh and doctor run in proot, to find out which calls it translates.

    proot-probe PATH
    proot-probe - FILE

PATH is a file that exists only inside. The probe looks it up by each of three system calls. Its exit status is `WORKS`
plus the numbers in `CALLS` of the calls that didn't find it, since they looked among the host's files. A call that the
kernel lacks or proot refuses doesn't count, because libraries then use another call.

The second form replaces stat(1), whose start would take longer: it prints the identity of FILE, its inode, size, times
and device, in letters. Without statx(2), it prints nothing and exits with 0.
"""

from __future__ import annotations

from provisioner.image.platform import Platform
from provisioner.launch.assembler import Assembler
from provisioner.launch.static_helper import assembler_for

WORKS = 64
"""Added to the exit status. A lower status is proot's own."""
CALLS = {"statx": 1, "faccessat2": 2, "openat2": 4}
"""The calls that are tried, each with its bit in the exit status."""

_NUMBERS = """
             amd64  386  arm arm64 riscv64
exit_group     231  252  248    94      94
faccessat2     439  439  439   439     439
openat2        437  437  437   437     437
statx          332  383  397   291     291
write            1    4    4    64      64
"""
"""The kernel's syscall tables, as in `static_helper`."""

_AT_FDCWD, _ENOENT = -100, -2
_STATX_TYPE, _STATX_BASIC_STATS = 1, 0x7FF
_HOW, _HOW_SIZE, _STATX, _TEXT = 0, 24, 64, 512
"""Offsets in the frame: struct open_how (openat2(2)), struct statx (statx(2)), and the letters."""
_INODE, _ATIME, _BTIME, _END = 32, 64, 80, 144
"""Offsets in struct statx. The identity has the bytes from _INODE to _END; the access time is set to 0."""


def proot_probe(platform: Platform) -> bytes:
    """Return the probe for machines of `platform`, an ELF executable. Raises MachineError for other machines."""
    p = assembler_for(platform, _NUMBERS)
    p.read("argc", "stack")
    p.frame("answer", _STATX)
    p.jump_if("argc", "==", 3, "identity")
    p.read("path", "stack", 2 * p.word)
    p.copy("status", WORKS)
    p.call("statx", _AT_FDCWD, "path", 0, _STATX_TYPE, "answer")
    _count(p, "statx")
    p.call("faccessat2", _AT_FDCWD, "path", 0, 0)
    _count(p, "faccessat2")
    p.frame("how", _HOW)
    for word in range(_HOW_SIZE // p.word):
        p.write("how", word * p.word, 0)
    p.call("openat2", _AT_FDCWD, "path", "how", _HOW_SIZE)
    _count(p, "openat2")
    p.call("exit_group", "status")
    _print_identity(p)
    return p.executable()


def _print_identity(p: Assembler) -> None:
    """Print two letters for each byte of the result of statx(2)."""
    p.label("identity")
    p.read("path", "stack", 3 * p.word)
    p.call("statx", _AT_FDCWD, "path", 0, _STATX_BASIC_STATS, "answer")
    p.jump_if("result", "!=", 0, "end")
    for at in range(_ATIME, _BTIME, p.word):
        p.write("answer", at, 0)
    p.frame("text", _TEXT)
    p.copy("at", "text")
    p.copy("count", _END - _INODE)
    p.add("answer", _INODE)
    p.label("byte")
    for shift in (4, 0):
        p.read("letter", "answer", size=1)
        p.shift_right("letter", shift)
        p.mask("letter", 15)
        p.add("letter", ord("a"))
        p.write("at", 0, "letter", 2)
        p.add("at", 1)
    p.add("answer", 1)
    p.add("count", -1)
    p.jump_if("count", "!=", 0, "byte")
    p.call("write", 1, "text", 2 * (_END - _INODE))
    p.label("end")
    p.call("exit_group", 0)


def _count(p: Assembler, call: str) -> None:
    """Add the bit of the call if its result is ENOENT."""
    p.jump_if("result", "!=", _ENOENT, f"after {call}")
    p.add("status", CALLS[call])
    p.label(f"after {call}")
