"""The probe of proot: a small executable that start.sh and doctor run inside of a proot, to learn what it translates.

    proot-probe PATH

PATH is a file that only the guest has. Each of three system calls looks for it. Exit status: `WORKS`, and the sum of
the numbers in `CALLS` of those that looked among the host's files. A call that the kernel doesn't have, or that proot
refuses, does no harm: libraries use another one then.
"""

from __future__ import annotations

from provisioner.image.platform import Platform
from provisioner.launch.assembler import Assembler
from provisioner.launch.static_helper import assembler_for

WORKS = 64
"""Added to the exit status, which is that of proot itself without it."""
CALLS = {"statx": 1, "faccessat2": 2, "openat2": 4}
"""The calls that are tried, with a number for each."""

_NUMBERS = """
             amd64  386  arm arm64 riscv64
exit_group     231  252  248    94      94
faccessat2     439  439  439   439     439
openat2        437  437  437   437     437
statx          332  383  397   291     291
"""
"""The kernel's syscall tables, as in `static_helper`."""

_AT_FDCWD, _ENOENT = -100, -2
_STATX_TYPE = 1
_HOW, _HOW_SIZE, _STATX = 0, 24, 64
"""Places in the frame: struct open_how (openat2(2)) and struct statx (statx(2))."""


def proot_probe(platform: Platform) -> bytes:
    """Return the probe for machines of `platform`, an ELF executable. Raises MachineError where there is none."""
    p = assembler_for(platform, _NUMBERS)
    p.read("path", "stack", 2 * p.word)
    p.copy("status", WORKS)
    p.frame("answer", _STATX)
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
    return p.executable()


def _count(p: Assembler, call: str) -> None:
    """Add the number of the call that was made if it found nothing."""
    p.jump_if("result", "!=", _ENOENT, f"after {call}")
    p.add("status", CALLS[call])
    p.label(f"after {call}")
