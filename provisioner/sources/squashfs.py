"""Squashfs images, read by the program unsquashfs, which is given no place to write to."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

from provisioner.archives.pseudo_files import files_of, tar_of
from provisioner.errors import MachineError, MalformedImage, lacks_resources, machine_errors
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.terminal.escaping import printable

_MAGIC = b"hsqs"
_PIECE = 1 << 18
_MESSAGE = 400
"""The most characters of the program's messages that are kept."""


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
        self._process: Any = None

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Yield path and size of each file, without their contents. Raises as `chunks` does."""
        output = self._run()
        try:
            yield from files_of(output)
        finally:
            output.close()
            self.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive; once. Raises MachineError where unsquashfs is missing or too old, and MalformedImage."""
        before = os.fstat(self._file)
        yield from tar_of(self._run())
        after = os.fstat(self._file)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise MalformedImage(f"{self._what} was changed while it was read", "provision it again")
        self._progress(after.st_size)

    def close(self) -> None:
        """Kill the program if it is running: a reader gets the end of its output then."""
        if self._process is not None:
            if self._process.is_alive():
                with suppress(ProcessLookupError):  # a thread of sh has waited for it meanwhile
                    self._process.kill()
            self._process.wait()

    def wait(self, offset: int) -> int:
        """Raise OSError: it can only be read by `chunks`."""
        raise OSError("a squashfs can't be read in parts")

    def report_read(self, position: int) -> None:
        """Do nothing: `chunks` counts what it reads."""

    def open_file(self) -> int:
        """Raise OSError, as `wait` does."""
        raise OSError("a squashfs can't be read in parts")

    def _run(self) -> Generator[bytes, None, None]:
        """Yield what `unsquashfs -pf` writes. Raises MachineError, and MalformedImage where it can't read the file."""
        messages: list[str] = []

        def keep(line: str) -> None:
            if sum(map(len, messages)) < _MESSAGE:
                messages.append(line[:_MESSAGE])

        with machine_errors("run unsquashfs"):
            read, write = os.pipe()
        with closing_descriptor(read):
            with closing_descriptor(write):
                self._process = _start(self._file, write, keep)
            while piece := os.read(read, _PIECE):
                yield piece
        self._process.wait()
        if self._process.exit_code:
            raise _failure(self._process.exit_code, "".join(messages))


def _start(file: int, output: int, keep: Callable[[str], None]) -> Any:
    """Start unsquashfs with the open `file`, and return the process. `keep` is called with lines of its messages.

    Raises MachineError.
    """
    import sh

    program = shutil.which("unsquashfs")
    if not program:
        hint = "install squashfs-tools (apt install squashfs-tools, pkg install squashfs-tools)"
        raise MachineError("a squashfs needs the program unsquashfs, which is missing", hint)
    options: dict[str, Any] = {"_bg": True, "_bg_exc": False, "_in": file, "_out": output, "_err": keep}
    options |= {"_decode_errors": "replace", "_ok_code": range(-64, 256)}
    command: Any = sh.Command(program)
    return command("-quiet", "-no-progress", "-pf", "/dev/stdout", "/dev/stdin", **options)


def _failure(status: int, messages: str) -> Exception:
    """Return the error for an unsquashfs that has failed with a status, negative for a signal, and messages."""
    text = printable(" ".join(messages.split()))[:_MESSAGE]
    if shortage := lacks_resources(RuntimeError(text)):
        return shortage
    if re.search("invalid option|SYNTAX", text):
        return MachineError("this unsquashfs is too old for -pf", "install squashfs-tools 4.5 or later")
    reason = f"signal {-status}" if status < 0 else f"status {status}"
    return MalformedImage(f"unsquashfs can't read it ({reason}): {text}")
