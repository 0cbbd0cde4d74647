"""POSIX access lists (acl(5)) of the files of a tree, which can only be set when all files are there."""

from __future__ import annotations

import os
import stat

from provisioner.filesystem.descriptors import EXISTING_FILE, closing_descriptor
from provisioner.filesystem.walk import walk
from provisioner.filesystem.xattrs import access_lists, set_read_xattrs
from provisioner.ownership.overrides import MetadataOverrides


def set_access_lists(rootfs: int, overrides: MetadataOverrides) -> int:
    """Set the POSIX access lists of a finished tree, and return how many can't be set here. Modes stay as they are.

    Call it when all files are there: a file that is created in a directory inherits the list that the directory has for
    new files. Raises OSError.
    """
    if not overrides.have_xattrs(access_lists):
        return 0
    refused, done = 0, set[int]()
    for file in filter(None, walk(rootfs)):
        metadata = overrides.get(file.stat.st_ino)
        lists = access_lists(metadata.xattrs) if metadata else []
        if not lists or file.stat.st_ino in done or not (file.is_directory or stat.S_ISREG(file.stat.st_mode)):
            continue
        done.add(file.stat.st_ino)
        with closing_descriptor(os.open(file.name, EXISTING_FILE, dir_fd=file.directory)) as opened:
            refused += set_read_xattrs(opened, lists)
            os.fchmod(opened, stat.S_IMODE(file.stat.st_mode))
    return refused


def refused_text(count: int) -> str:
    """Return one line about access lists that can't be set."""
    lists = "1 access list" if count == 1 else f"{count} access lists"
    return f"{lists} (acl) can't be set here: modes alone decide"
