"""The files that ship with the package: the profiles and the launch script."""

from pathlib import Path


def resource(folder: str, name: str) -> bytes:
    """Return the content of the file `name` in `folder` (`"profiles"` or `"scripts"`).

    Raises FileNotFoundError where there is none; a `name` with a slash can't lead out of the folder.
    """
    path = _folder(folder) / name
    if path.name != name or not path.is_file():
        raise FileNotFoundError(f"no file {name!r} in {folder}")
    return path.read_bytes()


def resource_names(folder: str, suffix: str) -> list[str]:
    """Return the sorted names of the files in `folder` that end in `suffix`, such as `".toml"`."""
    return sorted(path.name for path in _folder(folder).iterdir() if path.name.endswith(suffix) and path.is_file())


def _folder(name: str) -> Path:
    """Find a folder inside of the installed package, or beside it in a checkout and its editable installation."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
