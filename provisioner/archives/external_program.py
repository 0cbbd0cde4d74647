"""Programs of this machine that read or write archives. They are started through `sh`, and never by a shell.

A program gets open files as its standard input and output. Where Python writes or reads the bytes, these are pipes that
are made here, not those of `sh`: the kernel lets the faster side wait for the slower one, and `sh` copies nothing. What
a program writes to standard error is read to its end, so that the program never waits for that; its beginning is in the
error where the program fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from provisioner.errors import machine_errors
from provisioner.filesystem.descriptors import closing_descriptor, closing_on_error
from provisioner.terminal.escaping import printable
from provisioner.threads import BackgroundThread, require_memory

PIECE = 1 << 18
"""The most bytes of a program's output that are read at a time."""
_MESSAGE = 400
"""The most characters of a program's messages that are stored for errors."""
_THREADS = 3
"""The threads that `sh` starts for a program, and for the wait for its end."""


class ProgramFailed(Exception):
    """A program has ended with another status than 0. The text has that, and the program's messages."""

    def __init__(self, status: int, messages: str) -> None:
        self.reason = f"signal {-status}" if status < 0 else f"status {status}"
        """How it ended."""
        self.messages = messages
        """Its first messages, in one line that can be printed."""
        super().__init__(f"{messages} ({self.reason})" if messages else self.reason)


class ExternalProgram:
    """A run of the program at `path` with these words and open files. Raises MachineError where it can't be started.

    This is a context manager: leaving it stops the program. Who doesn't use it as one calls `stop` in the end.
    """

    def __init__(self, path: str, *words: str, stdin: int, stdout: int) -> None:
        import sh

        self._messages: list[str] = []
        options: dict[str, Any] = {
            "_bg": True,
            "_bg_exc": False,
            "_in": stdin,
            "_out": stdout,
            "_err": self._add_message,
        }
        # By default `sh` waits for the end of a line, which may never come.
        options |= {"_err_bufsize": _MESSAGE, "_decode_errors": "replace", "_ok_code": range(-64, 256)}
        command: Any = sh.Command(path)
        require_memory(_THREADS)
        with machine_errors(f"run {printable(path)}"):
            try:
                self._process: Any = command(*words, **options)
            except sh.ForkException as error:
                number = re.search(r"\[Errno (\d+)\]", str(error))
                raise OSError(int(number[1]) if number else 0, "it can't be executed") from None

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the program."""
        self.stop()

    def finish(self) -> None:
        """Wait for the end of the program. Raises ProgramFailed."""
        self._process.wait()
        if status := int(self._process.exit_code):
            raise ProgramFailed(status, printable(" ".join("".join(self._messages).split()))[:_MESSAGE])

    def stop(self) -> None:
        """Kill the program if it is running, and wait for its end. Whoever reads its output gets the end of that."""
        with suppress(ProcessLookupError):  # it has just ended
            if self._process.is_alive():
                self._process.kill()
        self._process.wait()

    def _add_message(self, text: str) -> None:
        if sum(map(len, self._messages)) < _MESSAGE:
            self._messages.append(text[:_MESSAGE])


def open_output(path: str, *words: str, stdin: int) -> tuple[ExternalProgram, int]:
    """Start a program, and return it with the descriptor that its output is read from. Raises MachineError."""
    read, write = _pipe()
    return _start(path, words, stdin, write, ours=read, theirs=write), read


def open_input(path: str, *words: str, stdout: int) -> tuple[ExternalProgram, int]:
    """Start a program, and return it with the descriptor that its input is written to. Raises MachineError."""
    read, write = _pipe()
    return _start(path, words, read, stdout, ours=write, theirs=read), write


def _open_filter(path: str, words: Sequence[str]) -> tuple[ExternalProgram, int, int]:
    """Start a program, and return it with the descriptors that its input is written to and its output is read from."""
    read, write = _pipe()
    with closing_descriptor(read), closing_on_error(write):
        program, output = open_output(path, *words, stdin=read)
    return program, write, output


def _start(path: str, words: Sequence[str], stdin: int, stdout: int, *, ours: int, theirs: int) -> ExternalProgram:
    """Start a program and close its end of a pipe, `theirs`; the other end, `ours`, only where that raises."""
    with closing_descriptor(theirs), closing_on_error(ours):
        return ExternalProgram(path, *words, stdin=stdin, stdout=stdout)


def run_filter(path: str, *words: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the output of a program whose input is `chunks`, which a thread writes to it.

    Raises ProgramFailed, MachineError, and what iterating over `chunks` raises.
    """
    failures: list[Exception] = []
    program, write, output = _open_filter(path, words)
    with closing_descriptor(output), program:
        feeder = BackgroundThread(_feed, "feed", (write, chunks, failures))
        with closing_on_error(write):
            feeder.start()
        while piece := os.read(output, PIECE):
            yield piece
        feeder.join()
        if failures:
            raise failures[0]
        program.finish()


def _feed(pipe: int, chunks: Iterator[bytes], failures: list[Exception]) -> None:
    """Write `chunks` to a pipe and close it, and append an error of `chunks` to `failures`."""
    try:
        with closing_descriptor(pipe):
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(pipe, view) :]
    except BrokenPipeError:  # the program has ended
        return
    except Exception as error:  # noqa: BLE001  the reader raises it
        failures.append(error)


def _pipe() -> tuple[int, int]:
    with machine_errors("make a pipe"):
        return os.pipe()
