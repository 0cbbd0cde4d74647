"""Filters of system calls: installed in this process, or interpreted as the kernel would do it."""

from __future__ import annotations

import ctypes
import struct

import pytest


def answer_of(filter_: bytes, number: int, arch: int, *arguments: int) -> int:
    """What the kernel would do on a system call: `filter_` run on a struct seccomp_data, by linux/filter.h."""
    order = "<" if arch & 0x40000000 else ">"
    data = struct.pack(f"{order}IIQ6Q", number, arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = list(struct.iter_unpack(f"{order}HBBI", filter_))
    accumulator = at = 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from(f"{order}I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x06:
                return int(k)
            case _:
                pytest.fail(f"operation {operation:#x} at {at}")


def install(filter_: bytes) -> None:
    """Put the calling process under a filter for the rest of its life (prctl(2), PR_SET_SECCOMP)."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    nought = ctypes.c_ulong(0)
    assert libc.prctl(no_new_privileges, ctypes.c_ulong(1), nought, nought, nought) == 0
    fprog = Program(len(filter_) // 8, filter_)
    assert libc.prctl(set_seccomp, ctypes.c_ulong(mode_filter), ctypes.byref(fprog)) == 0, ctypes.get_errno()
