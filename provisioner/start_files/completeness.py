"""Whether a provisioned directory is whole: what start.sh and the other commands need is there, and made anew if not.

Everything that is generated is made of the record and the image's documents, without network. What only the image's
layers say can't be made anew here: the directory is refused then.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from provisioner.container.opened import opened_container
from provisioner.container.record import Record
from provisioner.container_files import (
    CONFIG,
    FAKEROOT_STATE,
    FOLDER,
    GENERATED,
    GENERATED_NAMES,
    MANIFEST,
    OLD_SCRIPT,
    OWNERSHIP_RECORD,
    RECORD,
    ROOTFS,
    SCRIPT,
    SHARED_MEMORY,
)
from provisioner.errors import MachineError, MalformedImage, TargetExists, machine_errors
from provisioner.filesystem.atomic import make_directory, replace_in
from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, change_mode, closing_descriptor
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.platform import host_platform
from provisioner.inspection import read_image
from provisioner.launch.renewal import find_outdated, renew
from provisioner.launch.runtime_files import runtime_files
from provisioner.launch.script import is_broken
from provisioner.ownership.mtree import top_names
from provisioner.ownership.record import open_record, remake_state
from provisioner.start_files.files import StartFiles
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

_DOCUMENTS = (MANIFEST, CONFIG)
_SHM_MODE = 0o1777
_ANEW = "make it anew: add --force; what was changed in it is lost then"
_OTHER_OWNER = re.compile(rb" (?:uid|gid)=[1-9]")


class _Opened(NamedTuple):
    """The open descriptors of a directory."""

    top: int
    folder: int
    """Its FOLDER."""
    rootfs: int


@dataclass
class _Job:
    """A directory that is made whole, and the names of what was written."""

    directory: Path
    opened: _Opened
    written: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str:
        return printable(str(self.directory))

    def put(self, name: str, data: bytes, mode: int = 0o644, below: str = "") -> None:
        """Replace a file of `top`, of FOLDER, or of the folder `below` in that, and remember its name."""
        where = self.opened.top if name == SCRIPT else self.opened.folder
        path = name if name == SCRIPT else os.path.join(FOLDER, below, name)
        self.clear(where, os.path.join(below, name), path)
        if below:
            with closing_descriptor(os.open(below, DIRECTORY, dir_fd=where)) as folder:
                replace_in(folder, name, data, mode)
        else:
            replace_in(where, name, data, mode)
        self.written.append(path)

    def clear(self, where: int, name: str, path: str) -> None:
        """Remove an empty directory from the place of a file. Raises TargetExists for one that isn't empty."""
        if (found := _mode(where, name)) is None or not stat.S_ISDIR(found):
            return
        try:
            os.rmdir(name, dir_fd=where)
        except OSError:
            raise TargetExists(
                f"{self.shown} is incomplete: {printable(path)} is a directory", "move it away, and try again"
            ) from None


def has_documents(directory: Path, record: Record, trust: TrustedDirectories) -> bool:
    """Return whether the image's manifest and config are there, as the record says.

    Raises TargetExists where the rootfs isn't there, NotTrusted and MachineError.
    """
    _check_rootfs(directory)
    with opened_container(directory, trust) as container:
        try:
            read_image(container.folder, directory, record)
        except (MalformedImage, MachineError):
            return False
    return True


def restore_documents(directory: Path, record: Record, image: Image, console: Console) -> None:
    """Write the manifest and the config of the image that the directory was made of. Raises TargetExists.

    `image` is what its source has today.
    """
    found = (str(image.digest), str(Digest.of(image.config_bytes)))
    if found != (record.manifest_digest, record.config_digest):
        raise TargetExists(
            f"{printable(str(directory))} is incomplete: {FOLDER} lacks the image's manifest or config", _ANEW
        )
    with machine_errors(f"complete {printable(str(directory))}"), _opened(directory) as opened:
        job = _Job(directory, opened)
        for name, data in zip(_DOCUMENTS, (image.manifest_bytes, image.config_bytes), strict=True):
            job.put(name, data)
    _report(job, console)


def complete_files(directory: Path, record: Record, shell: str, trust: TrustedDirectories, console: Console) -> bool:
    """Write what is missing or damaged of a directory, and what an older version wrote; return whether anything was.

    `shell` is the interpreter of a start.sh that is missing. Raises TargetExists where something can't be made anew,
    and MachineError. The image's documents have to be there (`has_documents`).
    """
    _check_rootfs(directory)
    with machine_errors(f"complete {printable(str(directory))}"), _opened(directory) as opened:
        job = _Job(directory, opened)
        files = StartFiles(directory, record, trust)
        _open_files(job)
        _check_record(job)
        _complete_script(job, files, shell)
        _complete_runtime(job)
        is_renewed = _renew(directory, console)  # which may give folders of older versions their names of today
        _complete_shared_memory(job)
        _complete_generated(job, files)
        _complete_state(job)
    _report(job, console)
    return is_renewed or bool(job.written)


def _report(job: _Job, console: Console) -> None:
    if job.written:
        console.step(f"{job.shown} was incomplete: written anew: {', '.join(job.written)}")


def _check_rootfs(directory: Path) -> None:
    """Raise TargetExists where the rootfs isn't a directory."""
    shown, rootfs = printable(str(directory)), directory / ROOTFS
    if os.path.islink(rootfs):
        target = printable(os.readlink(rootfs))
        raise TargetExists(
            f"{shown} is incomplete: {ROOTFS} is a symlink to {target}", f"put the directory itself there, or {_ANEW}"
        )
    if not os.path.isdir(rootfs):
        raise TargetExists(f"{shown} is incomplete: {ROOTFS} is missing", _ANEW)


def _open_files(job: _Job) -> None:
    """Make the files that are read here, and the folder of generated ones, readable for their owner."""
    generated = [f"{GENERATED}/{name}" for name in GENERATED_NAMES]
    for name in (GENERATED, *generated, *_DOCUMENTS, RECORD, OWNERSHIP_RECORD, FAKEROOT_STATE):
        mode = 0o755 if name == GENERATED else 0o644
        if _mode(job.opened.folder, name) is not None and _open_mode(job.opened.folder, name, mode):
            job.written.append(os.path.join(FOLDER, name))


def _check_record(job: _Job) -> None:
    """Raise TargetExists where the ownership record can't be read, or the rootfs lacks most of what it names."""
    what = f"{job.shown} is incomplete: {FOLDER}/{OWNERSHIP_RECORD}"
    if not _is_file(job.opened.folder, OWNERSHIP_RECORD):
        raise TargetExists(f"{what} is missing, so nobody knows what the image's files were", _ANEW)
    with open_record(job.opened.folder) as lines:
        names = top_names(lines)
    if names is None:
        raise TargetExists(f"{what} is damaged, so nobody knows what the image's files were", _ANEW)
    missing = [name for name in names if _mode(job.opened.rootfs, os.fsdecode(name)) is None]
    if len(missing) * 2 > len(names):
        examples = ", ".join(printable(name) for name in missing[:3])
        raise TargetExists(
            f"{job.shown} is incomplete: {len(missing)} of {len(names)} files and directories at the top of its "
            f"{ROOTFS} are missing ({examples}{', …' if len(missing) > 3 else ''})",
            f"put them back: provision repair {job.shown}; or {_ANEW}",
        )


def _complete_state(job: _Job) -> None:
    """Write fakeroot's state anew where it is missing, cut short, or empty without reason."""
    folder = job.opened.folder
    if _is_file(folder, FAKEROOT_STATE):
        with open(os.open(FAKEROOT_STATE, EXISTING_FILE, dir_fd=folder), "rb") as file:
            is_empty = not file.read(1)
            is_whole = is_empty or (file.seek(-1, os.SEEK_END) >= 0 and file.read() == b"\n")
        if is_whole and not (is_empty and _names_other_owners(folder)):
            return
    job.clear(folder, FAKEROOT_STATE, f"{FOLDER}/{FAKEROOT_STATE}")
    remake_state(folder, job.opened.rootfs)
    job.written.append(f"{FOLDER}/{FAKEROOT_STATE}")


def _names_other_owners(folder: int) -> bool:
    with open_record(folder) as record:
        return any(map(_OTHER_OWNER.search, record))


def _complete_runtime(job: _Job) -> None:
    """Write the helper and the filters that aren't files, or are closed; `_renew` writes what is missing or differs."""
    folder = job.opened.folder
    for file in runtime_files(host_platform()):
        if (mode := _mode(folder, file.name)) is None:
            continue
        if not stat.S_ISREG(mode):
            job.put(file.name, file.content, file.mode)
        elif _set_mode(folder, file.name, file.mode):
            job.written.append(f"{FOLDER}/{file.name}")


def _complete_shared_memory(job: _Job) -> None:
    """Make the directory for /dev/shm where it is missing, and give it its mode."""
    folder = job.opened.folder
    if not _is_directory(folder, SHARED_MEMORY):
        with suppress(FileNotFoundError):
            os.unlink(SHARED_MEMORY, dir_fd=folder)
        os.close(make_directory(folder, SHARED_MEMORY, _SHM_MODE))
        job.written.append(f"{FOLDER}/{SHARED_MEMORY}")
    elif _set_mode(folder, SHARED_MEMORY, _SHM_MODE):
        job.written.append(f"{FOLDER}/{SHARED_MEMORY}")


def _complete_script(job: _Job, files: StartFiles, shell: str) -> None:
    """Write start.sh anew where it can't run at all; what it was is kept. One that was edited stays."""
    top = job.opened.top
    was_closed = _is_file(top, SCRIPT) and _open_mode(top, SCRIPT, 0o755)
    old = _content(top, SCRIPT)
    if old is None or is_broken(old):
        if old:
            job.clear(job.opened.folder, OLD_SCRIPT, f"{FOLDER}/{OLD_SCRIPT}")
            replace_in(job.opened.folder, OLD_SCRIPT, old, 0o644)
        job.put(SCRIPT, files.script(shell), 0o755)
    elif was_closed:
        job.written.append(SCRIPT)


def _complete_generated(job: _Job, files: StartFiles) -> None:
    """Write the copies of files that start.sh writes, where they are missing or empty."""
    folder = job.opened.folder
    is_there = _is_directory(folder, GENERATED)
    if not is_there:
        with suppress(FileNotFoundError):
            os.unlink(GENERATED, dir_fd=folder)
        os.close(make_directory(folder, GENERATED))
    elif all(_content(folder, f"{GENERATED}/{name}") for name in GENERATED_NAMES):
        return
    before = len(job.written)
    for name, content in files.generated.items():
        if not _content(folder, f"{GENERATED}/{name}"):
            job.put(name, content, below=GENERATED)
    if not is_there:
        job.written[before:] = [f"{FOLDER}/{GENERATED}"]


def _renew(directory: Path, console: Console) -> bool:
    """Give a directory that another version made this version's start.sh, helper and filters.

    Returns whether it wasn't as this version writes it.
    """
    with machine_errors(f"renew {printable(str(directory / SCRIPT))}"):
        outdated = find_outdated(directory, host_platform())
        if outdated.names:
            renew(directory, outdated)
            console.step(f"renewed, as this version writes them: {', '.join(outdated.names)}")
        if outdated.is_edited:
            console.step("start.sh was edited, and stays as it is; without it, the next run writes it anew")
    return bool(outdated.names)


def _content(folder: int, name: str) -> bytes | None:
    """Return the content of a regular file of a descriptor; None where there is none."""
    if not _is_file(folder, name):
        return None
    with open(os.open(name, EXISTING_FILE, dir_fd=folder), "rb") as file:
        return file.read()


def _set_mode(folder: int, name: str, mode: int) -> bool:
    """Give a file at least these permission bits; return whether it lacked some and has them now."""
    before = stat.S_IMODE(_mode(folder, name) or 0)
    if before & mode == mode:
        return False
    change_mode(folder, os.fsencode(name), before | mode)
    return stat.S_IMODE(_mode(folder, name) or 0) != before  # some file systems keep no modes


def _open_mode(folder: int, name: str, mode: int) -> bool:
    """Give a file that its owner can't use these permission bits; return whether it has them now."""
    own = mode & 0o500
    return (_mode(folder, name) or 0) & own != own and _set_mode(folder, name, mode)


def _mode(folder: int, name: str) -> int | None:
    """Return the mode of a file, with its type, symlinks not followed; None where there is none."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_file(folder: int, name: str) -> bool:
    return stat.S_ISREG(_mode(folder, name) or 0)


def _is_directory(folder: int, name: str) -> bool:
    return stat.S_ISDIR(_mode(folder, name) or 0)


@contextmanager
def _opened(directory: Path) -> Iterator[_Opened]:
    """Open a directory, its FOLDER and its rootfs."""
    with (
        closing_descriptor(os.open(directory, DIRECTORY)) as top,
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=top)) as folder,
        closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=top)) as rootfs,
    ):
        yield _Opened(top, folder, rootfs)
