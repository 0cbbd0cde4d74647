"""The files of /etc with a line for each user or group, as an image has them: an update merges them by line."""

from __future__ import annotations

from provisioner.rootfs.tree import Tree

ACCOUNT_FILES = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
LARGEST = 8 << 20
"""The most bytes of such a file that are merged."""


def read_account_files(tree: Tree) -> dict[str, bytes]:
    """Return the account files that a tree has, by name. Those that are too large are left out. Raises OSError."""
    contents = {name: tree.read(f"etc/{name}".encode(), LARGEST + 1) for name in ACCOUNT_FILES}
    return {name: content for name, content in contents.items() if content is not None and len(content) <= LARGEST}
