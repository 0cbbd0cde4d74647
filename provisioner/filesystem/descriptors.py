"""Flags of open(2) and a context manager for file descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory, never through a symlink."""

EXISTING_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a file for reading, never through a symlink."""

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to create a file for writing; open(2) fails where the name exists."""


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Return a context that gives an open file descriptor and closes it at its end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)
