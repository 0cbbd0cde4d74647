"""The step of the static helper that closes descriptors. See `static_helper`."""

from __future__ import annotations

from provisioner.launch.assembler import Assembler
from provisioner.launch.helper_flags import CLOSE, KEEP, read_number, unless

FIRST_CLOSED = 6
"""The first descriptor that is closed in spite of KEEP."""
_AT_FDCWD, _O_CLOEXEC = -100, 0o2000000
_RLIMIT_NOFILE = 7
_LAST = 0x7FFFFFFF
_MOST_DESCRIPTORS = 0x10000
"""The most descriptors that are closed one by one, without close_range(2) and /proc."""
_DESCRIPTORS = b"/proc/self/fd\0"
_ENTRIES_SIZE = 0x800


def close_descriptors(p: Assembler, *, place: int) -> None:
    """With CLOSE, close all descriptors above 2, or above 5 with KEEP. `place` is the offset of 2 KiB in the frame."""
    unless(p, CLOSE, "closed")
    p.copy("lowest", 3)
    unless(p, KEEP, "lowest is known")
    p.copy("lowest", FIRST_CLOSED)
    p.label("lowest is known")
    p.call("close_range", "lowest", _LAST, 0)  # since Linux 5.9
    p.jump_if("result", ">=", 0, "closed")
    _close_each(p, place)
    p.label("closed")


def _close_each(p: Assembler, place: int) -> None:
    """Close the descriptors from `lowest` on that /proc/self/fd lists; without /proc, all up to the limit.

    /proc is preferred, since descriptors may be above the limit if that was lowered after they were opened.
    """
    p.frame("entries", place)
    for at in range(0, len(_DESCRIPTORS), 2):
        p.write("entries", at, int.from_bytes(_DESCRIPTORS[at : at + 2], "little"), 2)
    p.call("close", "lowest")  # all numbers may be taken
    p.call("openat", _AT_FDCWD, "entries", _O_CLOEXEC)
    p.copy("file", "result")
    p.jump_if("file", "<", 0, "up to the limit")
    p.label("entries")
    p.call("getdents64", "file", "entries", _ENTRIES_SIZE)
    p.copy("end", "entries")
    p.add("end", "result")
    p.jump_if("result", ">=", 1, "first entry")
    p.jump_if("result", "<", 0, "up to the limit")
    p.call("close", "file")
    p.jump("closed")
    p.label("first entry")
    p.copy("entry", "entries")
    p.label("entry")
    p.read("length", "entry", 16, 1)  # struct linux_dirent64, d_reclen: these names are short
    p.copy("at", "entry")
    p.add("at", 19)  # d_name
    p.read("first", "at", size=1)
    p.jump_if("first", "<", ord("0"), "next entry")
    read_number(p, "open")
    p.jump_if("open", "<", "lowest", "next entry")
    p.jump_if("open", "==", "file", "next entry")
    p.call("close", "open")
    p.label("next entry")
    p.add("entry", "length")
    p.jump_if("entry", "!=", "end", "entry")
    p.jump("entries")
    p.label("up to the limit")
    p.frame("limit", place)
    p.call("prlimit64", 0, _RLIMIT_NOFILE, 0, "limit")
    p.read("count", "limit", size=4)
    p.jump_if("count", "<", 0, "bound")
    p.jump_if("count", "<", _MOST_DESCRIPTORS, "close")
    p.label("bound")
    p.copy("count", _MOST_DESCRIPTORS)
    p.label("close")
    p.add("count", -1)
    p.jump_if("count", "<", "lowest", "closed")
    p.call("close", "count")
    p.jump("close")
