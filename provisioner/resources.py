"""Package data: the profiles, and the parts of start.sh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def resource(folder: str, name: str) -> bytes:
    """Return the content of the file `name` in `folder`, such as `"profiles"` or `"scripts/start"`.

    Raises FileNotFoundError if there is no such file. A `name` with a slash can't lead out of the folder.
    """
    if Path(name).name == name:
        file = _folder(folder) / name
        if file.is_file():
            return file.read_bytes()
    raise FileNotFoundError(f"no file {name!r} in {folder}")


def resource_names(folder: str, suffix: str) -> list[str]:
    """Return the sorted names of the files in `folder` that end in `suffix`, such as `".toml"`."""
    return sorted(file.name for file in _folder(folder).iterdir() if file.name.endswith(suffix) and file.is_file())


def _folder(name: str) -> Traversable:
    """Return a folder inside of the package, or beside it in a checkout and its editable installation."""
    from importlib import resources  # here, for a quick --help

    folder = resources.files("provisioner") / name
    return folder if folder.is_dir() else Path(__file__).resolve().parent.parent / name
