"""What the main process and a worker process send each other about a task, over a socket.

All messages are numbers of 8 bytes, big-endian. The main process sends for each task

    its number, and where its blob begins in a file, together with the open file (SCM_RIGHTS of unix(7));
    how many bytes of the blob may be read, again whenever these are more;
    ENDED after the last byte, or BROKEN where the rest can't be read.

The worker reads the file itself. It sends how far it has read, now and then, and DONE when it can take another task.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.image.digest import CHUNK
from provisioner.sources import LayerBlob

_SIZE = 8
"""The bytes of a message."""
_ENDED, _BROKEN = 2**64 - 1, 2**64 - 2
_DONE = _ENDED
_REPORT_EVERY = 1 << 20
"""A worker reports how far it has read after each so many bytes."""


def send_task(connection: socket.socket, number: int, blob: LayerBlob) -> None:
    """Send a task to a worker process, and how much of its blob may be read, until that has ended.

    Raises what waiting for the blob raises: then call `send_broken`. Raises BrokenPipeError and ConnectionResetError
    where the worker has ended.
    """
    sent = 0
    while (available := blob.wait(sent)) > sent:
        if not sent:
            _send_file(connection, number, blob)
        connection.sendall(_encode(available))
        sent = available
    if not sent:
        _send_file(connection, number, blob)
    connection.sendall(_encode(_ENDED))


def send_broken(connection: socket.socket) -> None:
    """Tell a worker process that the rest of its blob can't be read. Raises as `send_task` does."""
    connection.sendall(_encode(_BROKEN))


def wait_until_done(connection: socket.socket, blob: LayerBlob) -> bool:
    """Wait until a worker has done its task, and report to `blob` how far it has read.

    Returns False where the worker has ended, which may also raise ConnectionResetError.
    """
    while message := connection.recv(_SIZE, socket.MSG_WAITALL):
        if (position := int.from_bytes(message, "big")) == _DONE:
            return True
        blob.report_read(position)
    return False


def receive_task(connection: socket.socket) -> ReceivedTask | None:
    """Return the next task, in a worker process; None where no more come."""
    data, files, _, _ = socket.recv_fds(connection, 2 * _SIZE, 1)
    if not files:
        return None
    number, start = data[:_SIZE], data[_SIZE:]
    return ReceivedTask(connection, int.from_bytes(number, "big"), files[0], int.from_bytes(start, "big"))


class ReceivedTask:
    """A task in a worker process: its number, and the file that its blob is in, from `start` on."""

    def __init__(self, connection: socket.socket, number: int, file: int, start: int) -> None:
        self.number = number
        self._connection = connection
        self._file = file
        self._start = start
        self._available = 0
        """How many bytes of the blob may be read."""
        self._end = 0
        """_ENDED or _BROKEN, when that has been received."""
        self._reported = 0
        """How much was read when that was last reported."""
        self._lock = threading.Lock()
        """A thread that reads ahead may not have ended when the task has."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of the blob. Raises EOFError where they can't be read to their end."""
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            yield chunk

    def finish(self) -> None:
        """Receive the rest of the messages, close the file, and send DONE."""
        with self._lock:
            while not self._end:
                self._receive()
            self._end = _BROKEN
            os.close(self._file)
        self._connection.sendall(_encode(_DONE))

    def _read(self, offset: int) -> bytes:
        with self._lock:
            while self._available <= offset and not self._end:
                self._receive()
            if self._end == _BROKEN:
                raise EOFError  # nobody reads the results
            count = min(CHUNK, max(0, self._available - offset))
            self._report(offset, at_least=_REPORT_EVERY if count else 1)
            return os.pread(self._file, count, self._start + offset)

    def _report(self, offset: int, at_least: int) -> None:
        """Send how much was read, after `at_least` bytes; not where the main process has yet to read other reports."""
        if offset - self._reported >= at_least:
            with suppress(BlockingIOError):
                self._connection.send(_encode(offset), socket.MSG_DONTWAIT)
                self._reported = offset

    def _receive(self) -> None:
        message = self._connection.recv(_SIZE, socket.MSG_WAITALL)
        number = int.from_bytes(message, "big") if len(message) == _SIZE else _BROKEN
        if number >= _BROKEN:
            self._end = number
        else:
            self._available = number


def _send_file(connection: socket.socket, number: int, blob: LayerBlob) -> None:
    with closing_descriptor(blob.open_file()) as file:
        socket.send_fds(connection, [_encode(number), _encode(blob.start)], [file])


def _encode(number: int) -> bytes:
    return number.to_bytes(_SIZE, "big")
