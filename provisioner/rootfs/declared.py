"""The directories that an image's config declares: its VOLUMEs, and its WorkingDir."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from provisioner.errors import MalformedImage
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable


def make_declared_directories(tree: Tree, paths: Iterable[str]) -> list[str]:
    """Create those of the directories that the image doesn't have, as docker does: for root, with the mode 0755.

    Returns a message for each that can't be created because of what the image has there. Raises MachineError.
    """
    messages = []
    for path in paths:
        shown = f"the image declares a directory {printable(path[:300])!r}, which can't be made"
        try:
            name = posixpath.normpath("/" + path).encode("utf-8", "surrogateescape")
            with tree_errors("make it"):
                tree.make_directory(name)
        except UnicodeEncodeError:
            messages.append(f"{shown}: no file can have that name")
        except MalformedImage as error:
            messages.append(f"{shown}: {error.message}")
    return messages
