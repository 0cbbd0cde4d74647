"""The file of `.provision/` in which `many` says that the container has many ids; start.sh adds the first of them."""

from __future__ import annotations

from pathlib import Path

from provisioner.container.access import FOLDER

IDS_FILE = "ids"


def ids_of(directory: Path) -> list[str]:
    """Return the lines of the file, without any for a directory that is used with one id. Raises OSError."""
    try:
        return (directory / FOLDER / IDS_FILE).read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []
