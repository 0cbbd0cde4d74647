"""Finds the names of files that have several, which are hard links of each other."""

from __future__ import annotations

from provisioner.filesystem.walk import walk


def find_link_names(root: int) -> list[list[bytes]]:
    """Return the paths below an open directory of each file with several names, in the order of `walk`.

    Names elsewhere, and on other file systems, are not among them. Raises OSError.
    """
    names: dict[int, list[bytes]] = {}
    above: list[bytes] = []
    for file in walk(root, closed="open"):
        if file is None:
            above.pop()
        elif file.is_directory:
            above.append(file.name)
        elif file.stat.st_nlink > 1 and not file.is_mounted:
            names.setdefault(file.stat.st_ino, []).append(b"/".join([*above[1:], file.name]))
    return list(names.values())
