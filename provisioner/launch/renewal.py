"""Directories that older versions made: what start.sh is today goes into them, and their settings stay."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.image.platform import Platform
from provisioner.launch.launcher import BODY_DIGEST, assemble
from provisioner.launch.runtime_files import RuntimeFile, runtime_files
from provisioner.launch.script import body

_FOLDER = ".provision"
_FORMER_NAMES = {"made": "generated"}
"""Folders in `.provision/` that older versions called differently."""

_HEADER = re.compile(
    rb"#!(?P<shell>[^\n ]*)[^\n]*\n"
    rb"(?P<comments>(?:#[^\n]*\n)*)"
    rb"(?P<values>(?:[a-z_]+=(?:'[^']*'|\"'\"|[\w@%+=:,./-])*\n)+)\n"
)
_VALUE = re.compile(rb"([a-z_]+)=((?:'[^']*'|\"'\"|[\w@%+=:,./-])*)\n")
"""A setting, quoted as shlex.quote does: its name and the quoted text."""


@dataclass(frozen=True)
class Outdated:
    """What in a directory isn't as this version writes it."""

    script: bytes | None
    """The content of start.sh with this version's body, None where it is up to date or was edited."""
    is_edited: bool
    """Whether somebody has edited the body of start.sh, which then stays."""
    files: tuple[RuntimeFile, ...]
    """The helper and filters of this version that differ."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the paths of what is written anew, relative to the directory."""
        script = ("start.sh",) if self.script else ()
        return (*script, *(f"{_FOLDER}/{file.name}" for file in self.files))


def find_outdated(directory: Path, platform: Platform) -> Outdated:
    """Compare a directory with what this version writes on a machine of `platform`. Raises OSError."""
    files = tuple(file for file in runtime_files(platform) if _content(directory / _FOLDER / file.name) != file.content)
    old = _content(directory / "start.sh")
    header = _HEADER.match(old or b"")
    if old is None or header is None:
        return Outdated(None, old is not None, files)
    old_body = old[header.end() :]
    digest = re.search(BODY_DIGEST.encode() + rb"([0-9a-f]{64})", header["comments"])
    if digest and digest[1].decode() != hashlib.sha256(old_body).hexdigest():
        return Outdated(None, True, files)
    if old_body == body() and digest:
        return Outdated(None, False, files)
    values = {name.decode(): quoted for name, quoted in _VALUE.findall(header["values"])}
    return Outdated(assemble(os.fsdecode(header["shell"]), values), False, files)


def renew(directory: Path, outdated: Outdated) -> None:
    """Write what is outdated anew. start.sh keeps its settings, mode and time. Raises OSError."""
    folder = directory / _FOLDER
    for old, new in _FORMER_NAMES.items():
        if (folder / old).is_dir() and not (folder / new).exists():
            (folder / old).rename(folder / new)
    for file in outdated.files:
        _replace(folder / file.name, file.content, file.mode)
    if outdated.script:
        path = directory / "start.sh"
        status = path.lstat()
        if BODY_DIGEST.encode() not in path.read_bytes():  # nobody knows whether it was edited
            _replace(folder / "start.sh.old", path.read_bytes(), 0o644)
        _replace(path, outdated.script, status.st_mode & 0o777, (status.st_atime_ns, status.st_mtime_ns))


def _content(path: Path) -> bytes | None:
    """Return the content of a regular file, None where there is none."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes()


def _replace(path: Path, content: bytes, mode: int, times: tuple[int, int] | None = None) -> None:
    """Put a new file in the place of `path`, and never write to what is there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            os.fchmod(handle, mode)
        if times:
            os.utime(temporary, ns=times)
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
