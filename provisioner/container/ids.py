"""The file of `.provision/` that says whether the user namespaces of a container have many ids.

Its first line is `many` then. The second one is the first of these ids: start.sh adds it when it has given the files
their owners.
"""

from __future__ import annotations

from pathlib import Path

from provisioner.container_files import FOLDER, IDS


def ids_of(directory: Path) -> list[str]:
    """Return the lines of the file; none for a directory that is used with one id. Raises OSError."""
    try:
        return (directory / FOLDER / IDS).read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []
