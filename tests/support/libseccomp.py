"""The numbers of system calls according to libseccomp, independent of the project's own table."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

from tests.support.tools import unavailable


def number(call: str, token: int) -> int | None:
    """Return the number of a system call on an architecture, None where it doesn't exist there.

    `token` is the architecture's AUDIT_ARCH or its SCMP_ARCH_* of seccomp.h.
    """
    found = int(_library().seccomp_syscall_resolve_name_arch(token, call.encode()))
    return found if found >= 0 else None


def native_arch() -> int:
    """Return the AUDIT_ARCH of this process."""
    return int(_library().seccomp_arch_native()) & 0xFFFFFFFF


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        unavailable("libseccomp is missing: apt-get install libseccomp2")
    return ctypes.CDLL(name)
