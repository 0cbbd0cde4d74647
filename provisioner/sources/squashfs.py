"""Squashfs images, read by the program unsquashfs, which writes to a pipe and creates no files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator

from provisioner.archives.external_program import PIECE, ExternalProgram, ProgramFailed, open_output
from provisioner.archives.pseudo_files import files_of, tar_of
from provisioner.errors import MachineError, MalformedImage, lacks_resources
from provisioner.filesystem.descriptors import closing_descriptor

_MAGIC = b"hsqs"
_LIST = ("-quiet", "-lln", "/dev/stdin")
_DESCRIBE = ("-quiet", "-no-progress", "-pf", "/dev/stdout", "/dev/stdin")


def is_squashfs(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a squashfs of version 4."""
    return head.startswith(_MAGIC)


class SquashfsBlob:
    """The squashfs in an open file, as the tar archive of its files. `what` names it for messages.

    `progress` is called with the size of the file when it is read. Call `close` in the end: it kills the program.
    """

    start = 0

    def __init__(self, file: int, what: str, progress: Callable[[int], None] = lambda count: None) -> None:
        self._file = file
        self._what = what
        self._progress = progress
        self._program: ExternalProgram | None = None
        """The program that runs, or ran last."""

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Yield path and size of each file, without their contents. Raises as `chunks` does."""
        output = self._run(_DESCRIBE)
        try:
            yield from files_of(output, self._run(_LIST))
        finally:
            output.close()
            self.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive; once. Raises MachineError where unsquashfs is missing or too old, and MalformedImage."""
        before = os.fstat(self._file)
        yield from tar_of(self._run(_DESCRIBE), self._run(_LIST))
        after = os.fstat(self._file)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise MalformedImage(f"{self._what} was changed while it was read", "provision it again")
        self._progress(after.st_size)

    def close(self) -> None:
        """Kill the program if it is running: a reader gets the end of its output then."""
        if self._program is not None:
            self._program.stop()

    def wait(self, offset: int) -> int:
        """Raise OSError: it can only be read by `chunks`."""
        raise OSError("a squashfs can't be read in parts")

    def report_read(self, position: int) -> None:
        """Do nothing: `chunks` counts what it reads."""

    def open_file(self) -> int:
        """Raise OSError, as `wait` does."""
        raise OSError("a squashfs can't be read in parts")

    def _run(self, words: tuple[str, ...]) -> Generator[bytes, None, None]:
        """Yield what `unsquashfs` with these words writes.

        Raises MachineError, and MalformedImage where it can't read the file.
        """
        path = shutil.which("unsquashfs")
        if not path:
            hint = "install squashfs-tools (apt install squashfs-tools, pkg install squashfs-tools)"
            raise MachineError("a squashfs needs the program unsquashfs, which is missing", hint)
        self._program, output = open_output(path, *words, stdin=self._file)
        with closing_descriptor(output):
            while piece := os.read(output, PIECE):
                yield piece
        try:
            self._program.finish()
        except ProgramFailed as error:
            raise _explained(error) from error


def _explained(error: ProgramFailed) -> Exception:
    """Return the error to show for an unsquashfs that has failed."""
    if shortage := lacks_resources(error):
        return shortage
    if re.search("invalid option|SYNTAX", error.messages):
        return MachineError("this unsquashfs is too old for -pf", "install squashfs-tools 4.5 or later")
    return MalformedImage(f"unsquashfs can't read it ({error.reason}): {error.messages}")
