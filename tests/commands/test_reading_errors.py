"""The names of files that a command can't read, in its messages."""

from __future__ import annotations

import errno
import os

import pytest

from provisioner.commands.archiving import call
from provisioner.errors import MachineError


@pytest.mark.parametrize(
    ("filename", "named"),
    [
        ("usr/lost", "usr/lost"),
        (b"usr/\xfflost", "usr/\\udcfflost"),
        (None, "a file in box"),
        (5, "a file in box"),  # as os.listdir has it for a descriptor
    ],
)
def test_the_file_that_cannot_be_read(filename: str | bytes | int | None, named: str) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), filename)

    with pytest.raises(MachineError) as raised:
        call(fail, "box")
    assert raised.value.message == f"read {named}: Input/output error"
