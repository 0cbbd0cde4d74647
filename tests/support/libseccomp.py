"""System calls by name, as libseccomp numbers them: independent of the project's own table."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

from tests.support.tools import unavailable


def number(call: str, token: int) -> int | None:
    """The number of a system call on an architecture, None where it has none.

    `token` is the architecture's AUDIT_ARCH, or what seccomp.h has for it (SCMP_ARCH_*).
    """
    found = int(_library().seccomp_syscall_resolve_name_arch(token, call.encode()))
    return found if found >= 0 else None


def native_arch() -> int:
    """The AUDIT_ARCH of the running process."""
    return int(_library().seccomp_arch_native()) & 0xFFFFFFFF


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        unavailable("libseccomp is missing: apt-get install libseccomp2")
    return ctypes.CDLL(name)
