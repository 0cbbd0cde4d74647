"""Moving files and directories from one place of a file system to another."""

from __future__ import annotations

import errno
import os

from provisioner.errors import MachineError


class CannotMove(MachineError):
    """The file system refuses to move directories, as one does that is made of several others."""

    usual_hint = "choose a directory on another file system"


def move(directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
    """Move a file or directory from one open directory to another. Raises CannotMove and OSError."""
    try:
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise CannotMove("directories can't be moved here") from error
        raise
