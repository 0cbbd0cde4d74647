"""POSIX access control lists as the kernel keeps them in system.posix_acl_access."""

from __future__ import annotations

import struct

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
"""The tags of entries (acl(5), linux/posix_acl.h)."""
NO_ID = 2**32 - 1
"""The id in entries that are about nobody in particular."""


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an access control list with entries of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
