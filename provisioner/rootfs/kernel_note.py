"""The kernel that the image's libc asks for: the ABI tag, a note in each program that a GNU C library is linked to."""

from __future__ import annotations

import struct

from provisioner.rootfs.tree import Tree

_NOTE_SEGMENT, _ABI_TAG, _LINUX = 4, 1, 0
_PROGRAMS = (b"bin/sh", b"usr/bin/env", b"bin/cat")
_EVERY_PHONE_HAS = (3, 10)
"""The oldest kernel of a phone that Termux runs on."""


def needed_kernel(tree: Tree) -> str:
    """Return the oldest kernel release, as `4.4.0`, on which the image's libc runs; empty where any will do."""
    for path in _PROGRAMS:
        release = parse_abi_tag(tree.read(path) or b"")
        if release[:2] > _EVERY_PHONE_HAS:
            return ".".join(map(str, release))
    return ""


def parse_abi_tag(program: bytes) -> tuple[int, ...]:
    """Return the kernel release in the ABI tag of an ELF program, three numbers; nothing where there is no such tag."""
    try:
        order = {1: "<", 2: ">"}[program[5]]
        # The table of segments: its offset, the size of an entry and their number (elf(5)).
        table, size, count = struct.unpack_from(
            *{1: (f"{order}28xI10xHH", program), 2: (f"{order}32xQ14xHH", program)}[program[4]]
        )
        for entry in range(table, table + size * count, size):
            kind, offset, length = struct.unpack_from(
                *{1: (f"{order}II8xI", program, entry), 2: (f"{order}I4xQ16xQ", program, entry)}[program[4]]
            )
            notes = program[offset : offset + length] if kind == _NOTE_SEGMENT else b""
            if program[:4] == b"\x7fELF" and (release := _find_tag(notes, order)):
                return release
    except (struct.error, KeyError, IndexError, ValueError, OverflowError):
        pass  # no program, or damaged
    return ()


def _find_tag(notes: bytes, order: str) -> tuple[int, ...]:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(f"{order}III", notes, at)
        content = at + 12 + (name_size + 3) // 4 * 4
        if kind == _ABI_TAG and notes[at + 12 : at + 16] == b"GNU\0" and size >= 16:
            system, *release = struct.unpack_from(f"{order}IIII", notes, content)
            return tuple(release) if system == _LINUX else ()
        at = content + (size + 3) // 4 * 4
    return ()
