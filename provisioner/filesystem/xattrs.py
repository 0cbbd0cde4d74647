"""Extended attributes of an image's files (xattr(7)), as far as this process and this file system can set them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_CAPABILITY = b"security.capability"
_USER = b"user."
_ACCESS_LISTS = b"system.posix_acl_"
_PORTABLE = (_USER, _ACCESS_LISTS, b"trusted.")


def set_xattrs(file: int, xattrs: Iterable[tuple[bytes, bytes]], *, privileged: bool) -> None:
    """Set the `user.*` attributes of an open file or directory and, if `privileged`, its capabilities.

    All other attributes belong to the machine where the image was made and are ignored, as is what the kernel or the
    file system refuses. Raises OSError for other errors. Call it after the owner is set, since chown(2) removes
    capabilities.
    """
    if hasattr(os, "setxattr"):  # Python has none on Termux
        for name, value in xattrs:
            if name.startswith(_USER) or (privileged and name == _CAPABILITY):
                with _refusals_ignored():
                    os.setxattr(file, name, value)


def read_xattrs(file: int) -> list[tuple[bytes, bytes]]:
    """Return names and values of the attributes of an open file that belong to it wherever it is, sorted.

    Labels of security modules, such as `security.selinux`, belong to the machine, and are left out.
    """
    if not hasattr(os, "listxattr"):  # Python has none on Termux
        return []
    found = []
    with _refusals_ignored():
        for text in sorted(os.listxattr(file)):
            name = os.fsencode(text)
            if name == _CAPABILITY or name.startswith(_PORTABLE):
                with _refusals_ignored():
                    found.append((name, os.getxattr(file, name)))
    return found


def set_read_xattrs(file: int, xattrs: Iterable[tuple[bytes, bytes]]) -> int:
    """Set attributes that `read_xattrs` has returned for another file; return how many this one can't have.

    Call it after the owner is set. Raises OSError for errors of the disk.
    """
    refused = 0
    for name, value in xattrs:
        refused += 1
        if not hasattr(os, "setxattr"):  # Python has none on Termux
            continue
        with _refusals_ignored():
            os.setxattr(file, name, value)
            refused -= 1
    return refused


def drop_inherited_lists(file: int) -> None:
    """Remove the access lists that an open, new file has from the default list of the directory that it is in.

    Call it before `set_read_xattrs` and before the mode is set. Raises OSError for errors of the disk.
    """
    if hasattr(os, "removexattr"):
        for name in (b"access", b"default"):
            with _refusals_ignored():
                os.removexattr(file, _ACCESS_LISTS + name)


def access_lists(xattrs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return those attributes that are POSIX access lists (acl(5)), and those that new files in a directory get."""
    return [(name, value) for name, value in xattrs if name.startswith(_ACCESS_LISTS)]


def drop_xattrs(file: int, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Remove the attributes that `set_xattrs` may have set."""
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
    errno.ENODATA,  # the attribute to remove doesn't exist
    errno.ERANGE,  # the name or the value is too long
    errno.E2BIG,  # the value is too long for this file system
    errno.ENOSPC,  # the same on ext4
)
