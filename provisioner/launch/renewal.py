"""Updates start.sh, helper and filters of directories that older versions made, and keeps their settings."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from provisioner.container_files import FOLDER, GENERATED, OLD_SCRIPT, SCRIPT
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.image.platform import Platform
from provisioner.launch.launcher import BODY_DIGEST, assemble
from provisioner.launch.runtime_files import RuntimeFile, runtime_files
from provisioner.launch.script import body

_FORMER_NAMES = {"made": GENERATED}
"""Folders in `.provision/` by their names in older versions."""

_HEADER = re.compile(
    rb"#!(?P<shell>[^\n ]*)[^\n]*\n"
    rb"(?P<comments>(?:#[^\n]*\n)*)"
    rb"(?P<values>(?:[a-z_]+=(?:'[^']*'|\"'\"|[\w@%+=:,./-])*\n)+)\n"
)
_VALUE = re.compile(rb"([a-z_]+)=((?:'[^']*'|\"'\"|[\w@%+=:,./-])*)\n")
"""A setting, quoted as shlex.quote does: its name and the quoted text."""


@dataclass(frozen=True)
class Outdated:
    """The files of a directory that differ from what this version writes."""

    script: bytes | None
    """The new content of start.sh; None if it is up to date or was edited."""
    is_edited: bool
    """Whether the body of start.sh was edited, so that it is not replaced."""
    files: tuple[RuntimeFile, ...]
    """The helper and filters of this version that differ from those in the directory."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the paths of the files that `renew` writes, relative to the directory."""
        script = (SCRIPT,) if self.script else ()
        return (*script, *(f"{FOLDER}/{file.name}" for file in self.files))


def find_outdated(directory: Path, platform: Platform) -> Outdated:
    """Compare a directory with what this version writes on a machine of `platform`. Raises OSError."""
    files = tuple(file for file in runtime_files(platform) if _content(directory / FOLDER / file.name) != file.content)
    old = _content(directory / SCRIPT)
    header = _HEADER.match(old or b"")
    if old is None or header is None:
        return Outdated(None, old is not None, files)
    old_body = old[header.end() :]
    digest = re.search(BODY_DIGEST.encode() + rb"([0-9a-f]{64})", header["comments"])
    if digest and digest[1].decode() != hashlib.sha256(old_body).hexdigest():
        return Outdated(None, True, files)
    if old_body == body() and digest:
        return Outdated(None, False, files)
    return Outdated(assemble(os.fsdecode(header["shell"]), settings_of(old)), False, files)


def script_anew(script: bytes, shell: str) -> tuple[bytes, bool] | None:
    """Return start.sh with this version's body, the interpreter `shell`, and the settings of the start.sh `script`.

    The settings are only data, also if an attacker has written them: none becomes shell code. The second value says
    whether the body of `script` was edited, so that edits are lost. Return None if it isn't a start.sh of provision.
    """
    header = _HEADER.match(script)
    if header is None:
        return None
    digest = re.search(BODY_DIGEST.encode() + rb"([0-9a-f]{64})", header["comments"])
    is_edited = digest is None or digest[1].decode() != hashlib.sha256(script[header.end() :]).hexdigest()
    return assemble(shell, settings_of(script)), is_edited


def settings_of(script: bytes) -> dict[str, bytes]:
    """Return the settings at the top of a start.sh, by name, quoted for the shell; none for any other script."""
    header = _HEADER.match(script)
    return {name.decode(): quoted for name, quoted in _VALUE.findall(header["values"])} if header else {}


def change_settings(script: bytes, before: bytes, after: bytes) -> bytes:
    """Return `script` with the settings that differ between `before` and `after` changed to those of `after`."""
    was, is_now = settings_of(before), settings_of(after)
    changed = {name: quoted for name, quoted in is_now.items() if was.get(name) != quoted}
    shell = after.partition(b"\n")[0].removeprefix(b"#!").split(b" ")[0]
    return assemble(os.fsdecode(shell), is_now | settings_of(script) | changed)


def keep_defaults(new: bytes, old: bytes) -> bytes:
    """Return the start.sh `new` with the interpreter and the defaults of options of the start.sh `old`.

    So an update keeps the user's choices for the directory. If one of them isn't a start.sh of provision, return `new`.
    """
    header, former = _HEADER.match(new), _HEADER.match(old)
    if header is None or former is None:
        return new
    values = {name.decode(): quoted for name, quoted in _VALUE.findall(header["values"])}
    kept = {name.decode(): quoted for name, quoted in _VALUE.findall(former["values"]) if name.startswith(b"default_")}
    return assemble(os.fsdecode(former["shell"]), values | kept)


def renew(directory: Path, outdated: Outdated) -> None:
    """Replace the outdated files. start.sh keeps its settings, mode and time. Raises OSError."""
    with (
        closing_descriptor(os.open(directory, DIRECTORY)) as top,
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=top)) as folder,
    ):
        names = set(os.listdir(folder))
        for old, new in _FORMER_NAMES.items():
            if old in names and new not in names:
                os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        for file in outdated.files:
            replace_in(folder, file.name, file.content, file.mode)
        if outdated.script:
            old_script = _content(directory / SCRIPT) or b""
            status = os.stat(SCRIPT, dir_fd=top, follow_symlinks=False)
            if BODY_DIGEST.encode() not in old_script:  # it may have been edited
                replace_in(folder, OLD_SCRIPT, old_script, 0o644)
            replace_in(top, SCRIPT, outdated.script, status.st_mode & 0o777)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(SCRIPT, ns=times, dir_fd=top, follow_symlinks=False)


def _content(path: Path) -> bytes | None:
    """Return the content of a regular file, or None."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes()
