"""Extended attributes of an image's files (xattr(7)), set where this process and this file system can."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_CAPABILITY = b"security.capability"
_USER = b"user."


def set_xattrs(file: int, xattrs: Iterable[tuple[bytes, bytes]], *, privileged: bool) -> None:
    """Give an open file or directory its `user.*` attributes and, if `privileged`, its capabilities.

    Others speak of the machine where the image was made. What can't be set is left out. Raises OSError for what is no
    refusal. To be called when the owner is right, since a change of owner takes capabilities away.
    """
    if hasattr(os, "setxattr"):  # Python has none on Termux
        for name, value in xattrs:
            if name.startswith(_USER) or (privileged and name == _CAPABILITY):
                with _refusals_ignored():
                    os.setxattr(file, name, value)


def drop_xattrs(file: int, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Take away what `set_xattrs` may have set."""
    if hasattr(os, "removexattr"):
        for name, _ in xattrs:
            if name.startswith(_USER) or name == _CAPABILITY:
                with _refusals_ignored():
                    os.removexattr(file, name)


@contextmanager
def _refusals_ignored() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


_REFUSALS = (
    errno.EPERM,
    errno.EACCES,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,  # no valid capabilities, or no valid name
    errno.ENODATA,  # nothing to take away
    errno.ERANGE,  # a name or a value that is too long,
    errno.E2BIG,  # and too much for one file on this file system, which ext4 calls no space
    errno.ENOSPC,
)
