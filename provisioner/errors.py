"""Errors that are shown to users: one class for each exit status, each with a message and a hint."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable

PROVISION_ELSEWHERE = "provision the image again, to another directory"
"""The hint if files are missing that only the image has. In the same directory, the user's changes would be lost."""


class ProvisionError(Exception):
    """Base class of all errors that are shown to users."""

    status = 1
    """The exit status of the process."""
    usual_hint = ""
    """The hint of an error that is raised without one."""

    message: str
    """What failed, and why."""
    hint: str
    """What to do about it; may be empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        return self.message


class UsageError(ProvisionError):
    """The command line, a configuration file or a profile is wrong."""

    status = 2


class NotFound(ProvisionError):
    """The image, the tag, the platform, the file or the container doesn't exist."""

    status = 3


class NotAllowed(ProvisionError):
    """The registry requires credentials, or rejects the ones that it got."""

    status = 4


class NetworkError(ProvisionError):
    """The registry can't be reached, or doesn't answer as the distribution specification says."""

    status = 5


class MalformedImage(ProvisionError):
    """Content doesn't match its digest, or is malformed."""

    status = 6
    usual_hint = "try again; if it fails again, the image is broken: tell its owner, or use another one"


class MachineError(ProvisionError):
    """This machine or its file system can't do it: no space, memory, links or permission, or a failing disk."""

    status = 7


class TargetExists(ProvisionError):
    """The file or directory at DIR must not be replaced, is in use, or was not made by provision."""

    status = 8


class NotTrusted(TargetExists):
    """A user who isn't trusted owns the directory, or may write to it."""


@contextmanager
def error_context(what: str) -> Iterator[None]:
    """Put `what` in front of the message of any ProvisionError that the block raises."""
    try:
        yield
    except ProvisionError as error:
        error.message = f"{what}: {error.message}"
        raise


HINTS = {
    errno.ENOSPC: "free some space (see df -h and df -i), or choose a directory on another file system",
    errno.EDQUOT: "free some space: this user's quota is used up",
    errno.EROFS: "choose a directory on a file system that can be written",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory on a file system that allows this (shared storage does not)",
    errno.ENAMETOOLONG: "choose a directory with a shorter path, or on a file system that takes longer names",
    errno.ENOTDIR: "choose another directory: a part of this path is a file",
    errno.EIO: "the disk fails: see what the kernel says (dmesg), and use another disk",
    errno.ENOMEM: "free some memory, or allow more: ulimit -v unlimited",
    errno.EMFILE: "allow more open files: ulimit -n 1024",
}
"""The hint for each errno of an operation that failed."""


def no_room(what: str, size: int, free: int, hint: str = HINTS[errno.ENOSPC]) -> MachineError:
    """Return the error where `what` needs `size` bytes or more, and only `free` may be used."""
    return MachineError(f"no room for {what}: {size_text(size)} or more are needed, {size_text(free)} are free", hint)


_NO_MEMORY = re.compile(
    "failed to map segment|annot allocate memory|ot enough memory|insufficient memory|Error -4 while"
    "|NULL without setting an exception"
)
"""The messages with which libraries report a lack of memory in exceptions of other types."""
_NO_THREAD = "can't start new thread"
"""The message of Python's RuntimeError at the limit of a user's threads."""


def lacks_resources(error: BaseException) -> MachineError | None:
    """Return the error to show for an exception that means a lack of memory or of threads; else None."""
    text = str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(text):
        return MachineError("there is not enough memory", HINTS[errno.ENOMEM])
    if isinstance(error, RuntimeError) and _NO_THREAD in text:
        hint = "end some, or allow more: ulimit -u"
        return MachineError("this user may have no more processes and threads", hint)
    return None


@contextmanager
def machine_errors(what: str) -> Iterator[None]:
    """Turn any OSError that the block raises into a MachineError whose message begins with `what`."""
    try:
        yield
    except OSError as error:
        raise _machine_error(what, error) from error


class PathErrors:
    """A context manager like `machine_errors`, whose messages also have the `path` in a rootfs that was set last.

    One context for all paths is faster than one for each.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.path = b""
        """Relative to the root, without a leading slash."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise MachineError for an OSError."""
        if isinstance(error, OSError):
            what = f"{self._what}: {printable(b'/' + self.path)}" if self.path else self._what
            raise _machine_error(what, error) from error


def _machine_error(what: str, error: OSError) -> MachineError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return MachineError(f"{what}: {reason}", HINTS.get(error.errno or 0, ""))
