"""Opens the files and pipes that users name as sources, and copies what can be read only once to the cache."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.errors import (
    MachineError,
    MalformedImage,
    NotFound,
    ProvisionError,
    UsageError,
    error_context,
    machine_errors,
)
from provisioner.filesystem.resolution import open_file
from provisioner.filesystem.trust import Untrusted
from provisioner.terminal.escaping import printable, shell_word

if TYPE_CHECKING:
    from provisioner.commands.opening import Opening
    from provisioner.sources.file_start import FileStart

STANDARD_INPUT = Path("/dev/stdin")
_NO_ARCHIVE = "name an archive: a tar file, which may be compressed, as docker save, skopeo or tar writes it"
_INPUTS = (str(STANDARD_INPUT), "/dev/fd/0", "/proc/self/fd/0")


def open_input(path: Path, stack: ExitStack, directory_hint: str) -> io.FileIO:
    """Open a file, a pipe or standard input for reading; `stack` closes it.

    Raises NotFound, UsageError for other kinds of files, with `directory_hint` for a directory, and MachineError.
    """
    shown = printable(str(path))
    try:
        with machine_errors(f"open {shown}"):
            file = io.FileIO(os.dup(0) if str(path) in _INPUTS else open_file(path))
    except MachineError as error:
        raise _explained(error, str(path), directory_hint) from error.__cause__
    stack.enter_context(file)
    kind = os.fstat(file.fileno()).st_mode
    if stat.S_ISDIR(kind):
        raise UsageError(f"{shown} is a directory", directory_hint)
    if os.isatty(file.fileno()):
        hint = "pipe an archive into it: docker save IMAGE | provision - DIR"
        raise UsageError(f"{shown} is a terminal, not an archive", hint)
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)) and not os.path.samefile(
        f"/dev/fd/{file.fileno()}", os.devnull
    ):
        raise _is_no_file(shown)
    return file


def start_of(file: io.FileIO, shown: str) -> FileStart:
    """Return an open file with what it begins with.

    Raises MalformedImage for what is known to be no archive and no squashfs, and MachineError.
    """
    from provisioner.archives.compression import describe_content
    from provisioner.archives.foreign import foreign_content
    from provisioner.sources.file_start import peek
    from provisioner.sources.squashfs import is_squashfs

    with machine_errors(f"read {shown}"):
        start = peek(file)
    if found := foreign_content(start.data) or foreign_content(start.decompressed_head):
        raise MalformedImage(f"{shown} is {found.name}, which provision doesn't read", found.hint)
    if start.data and not start.may_be_archive and not is_squashfs(start.data):
        # Before an endless pipe has filled the disk.
        raise MalformedImage(f"{shown}: it is no archive but {describe_content(start.data)}", _NO_ARCHIVE)
    return start


def spooled(start: FileStart, shown: str, opening: Opening) -> io.FileIO:
    """Return a copy in the cache of what can be read only once. Its name there is gone already. Raises MachineError."""
    from provisioner.sources.spool import spool_file

    with error_context(shown), machine_errors("read it"), opening.console.progress(None) as progress:
        progress.describe(f"read {shown}")
        return opening.stack.enter_context(spool_file(opening.cache(), start.chunks(progress.advance)))


def _explained(error: MachineError, path: str, directory_hint: str) -> ProvisionError:
    """Return the error to show for one of opening the file at `path`."""
    shown = printable(path)
    cause = error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"there is no file {shown}", "check the path")
    if number == errno.EISDIR:
        return UsageError(f"{shown} is a directory", directory_hint)
    if number == errno.ENXIO:  # a socket
        return _is_no_file(shown)
    if number == errno.EBADF:
        return UsageError("standard input is closed", "pipe an archive into it, or name a file")
    if isinstance(cause, Untrusted):
        error.hint = "name the file itself, without the symlink"
    elif number in (errno.EACCES, errno.EPERM):
        error.hint = f"choose a file that you may read, or allow it: chmod u+r {shell_word(path)}"
    return error


def _is_no_file(shown: str) -> UsageError:
    return UsageError(f"{shown} is no file and no pipe", "name an archive or a directory of an image")
