"""A second process that writes files of a layer, where only one layer is large and another processor is free.

The first process reads the archive, creates directories, links and whatever else isn't a small file, in order. It hands
small files over, as they stand in the archive, as long as the second process keeps up, and writes the others itself.
Before it links or removes anything, it waits until all files are written. So the tree is the one that a single process
makes, unless the name of a file is taken by the time the second process comes to it: then NameTaken is raised. In the
end each of them writes half of the ownership record's lines.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import NoReturn, Self, cast

from provisioner.errors import ProvisionError, lacks_resources, machine_errors
from provisioner.layers.apply import WHITEOUT, LayerApplier
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.reader import StreamedLayer
from provisioner.layers.workers import WorkerKilled
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.parts import RecordPart, Share
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_part
from provisioner.rootfs.tree import Place, Tree

_LARGEST = 1 << 16
"""The most bytes of a file that is handed over: more take longer to be copied between the processes."""
_BATCH_SIZE, _BATCHES = 1 << 16, 8
"""Files are handed over in batches of about so many bytes, and so many batches are waiting at most."""
_MAX_FILES = 1 << 16
"""So many files are handed over before their metadata is fetched, which take some 40 bytes for each."""
_PAUSE = 16
"""How many files the first process writes itself before it looks again whether the second keeps up."""
_RECORD = b"record"
"""The message behind the last batch: a part of the ownership record is to be written."""
_LENGTH = 4
"""The bytes of the length of a message, in front of it."""


class NameTaken(Exception):
    """Two entries of the layer have the same name, and weren't applied in order: the layer has to be unpacked again."""


class FileWriter:
    """The second process, which writes into the open directory `root`; it is forked on entering the context.

    Methods raise NameTaken, what writing raises, and WorkerKilled.
    """

    def __init__(self, root: int, ownership: Ownership) -> None:
        self._root = root
        self._ownership = ownership
        self._batch: list[bytes] = []
        self._size = 0
        self._under_way = 0
        """The batches that were sent, and aren't done."""
        self.files = 0
        """The files that were handed over since `wait` was called."""
        self._pause = 0
        self.clamped_times = 0
        """How many files have a time that can't be kept (see LayerApplier)."""

    def __enter__(self) -> Self:
        """Fork the process; this one may have no threads. Raises OSError where that is refused."""
        with ExitStack() as stack:
            self._socket, other = map(stack.enter_context, socket.socketpair())
            self._pid = os.fork()
            if not self._pid:
                self._socket.close()
                _serve(self._root, self._ownership, other)
            stack.pop_all()
        other.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, so that the process ends, and wait for that."""
        self._socket.close()
        os.waitpid(self._pid, 0)

    def keeps_up(self) -> bool:
        """Return whether another file may be handed over: few enough batches are waiting."""
        if self._under_way < _BATCHES:
            return True
        if self._pause:
            self._pause -= 1
            return False
        self._pause = _PAUSE
        self._finish_batches(socket.MSG_DONTWAIT)
        return self._under_way < _BATCHES

    def write(self, parts: Sequence[bytes]) -> None:
        """Hand over a file: `parts` are the bytes of its header and of its content, as they are in the archive."""
        self._batch += parts
        self.files += 1
        self._size += sum(map(len, parts))
        if self._size >= _BATCH_SIZE:
            self._send()

    def wait(self, overrides: MetadataOverrides) -> None:
        """Wait until all files are written, and add to `overrides` what the file system couldn't store of them."""
        if not self.files:
            return
        if self._batch:
            self._send()
        self._finish_batches()
        self._send()
        found, clamped_times = cast(tuple[MetadataOverrides, int], self._receive())
        overrides.update(found)
        self.clamped_times += clamped_times
        self._under_way = self.files = 0

    def write_record(self, folder: int, name: bytes, overrides: MetadataOverrides) -> tuple[RecordPart, RecordPart]:
        """Write the lines of all files, each process a part, as `write_part` does. Nothing may be written after that.

        Raises MachineError as well.
        """
        where = (folder, name + b"-2", Share(1, 2))
        self._send_message(_RECORD)
        self._send_message(pickle.dumps((where, overrides), pickle.HIGHEST_PROTOCOL))
        with machine_errors("write the ownership record"):
            own = write_part(folder, name, self._root, overrides, self._ownership, Share(0, 2))
        other = self._receive()
        if isinstance(other, Exception):
            raise other
        return own, cast(RecordPart, other)

    def _send(self) -> None:
        """Send the batch; one without files asks for the metadata."""
        self._send_message(b"".join(self._batch))
        self._batch, self._size = [], 0
        self._under_way += 1

    def _send_message(self, data: bytes) -> None:
        try:
            _send(self._socket, data)
        except (BrokenPipeError, ConnectionResetError):
            raise WorkerKilled from None

    def _finish_batches(self, flags: int = 0) -> None:
        """Wait until all batches that were sent are done. Raises what has failed."""
        while self._under_way:
            try:
                answer = self._receive(flags)
            except BlockingIOError:
                return
            if isinstance(answer, Exception):
                raise answer
            self._under_way -= 1

    def _receive(self, flags: int = 0) -> object:
        try:
            return pickle.loads(_receive(self._socket, flags))
        except (EOFError, ConnectionResetError):
            raise WorkerKilled from None


class SharedTree(Tree):
    """The tree that both processes write to, as the first one sees it."""

    def __init__(self, root: int, writer: FileWriter, budget: Budget) -> None:
        super().__init__(root)
        self._writer = writer
        self._budget = budget

    def takes_file(self, path: bytes, size: int) -> bool:
        """Return whether to hand over a file: a small one in a directory that is open. Raises MachineError."""
        # A removed file's inode may become that of another file, whose metadata this process would have to know.
        if (
            size > _LARGEST
            or self.overrides.stale
            or WHITEOUT in path
            or not self._directories.is_open(path.removeprefix(b"./").rpartition(b"/")[0])
            or not self._writer.keeps_up()
        ):
            return False
        self._budget.spend(ENTRY_SIZE)
        return True

    def hand_over(self, *parts: bytes) -> None:
        """Have the other process write the file."""
        self._writer.write(parts)
        if self._writer.files == _MAX_FILES:
            self.wait()

    def wait(self) -> None:
        """Wait until all files are written."""
        self._writer.wait(self.overrides)

    def locate_hard_link(self, path: bytes, target: bytes) -> tuple[Place, Place]:
        """Return what Tree does, when all files are written: the target may be one of them."""
        self.wait()
        return super().locate_hard_link(path, target)

    def remove_child(self, directory: int, name: bytes, state: os.stat_result) -> None:
        """Remove as Tree does, when all files are written: so no directory of theirs is removed before."""
        self.wait()
        super().remove_child(directory, name, state)


class _WriterTree(Tree):
    """The tree as the second process sees it, which creates nothing but files."""

    def remove(self, place: Place) -> None:
        """Raise NameTaken: something is at `place`."""
        raise NameTaken

    def _open_name(self, name: bytes, directory: int, above: Sequence[bytes], create: bool) -> int | bytes:
        if isinstance(opened := super()._open_name(name, directory, above, create=False), bytes):
            raise NameTaken
        return opened


def _serve(root: int, ownership: Ownership, tasks: socket.socket) -> NoReturn:
    """Write the files of all batches in the second process until no more come, and exit."""
    try:
        with suppress(EOFError), _WriterTree(root) as tree:
            applier = LayerApplier(tree, ownership)
            try:
                applier.apply_reader(StreamedLayer(_batches(tasks, tree, applier), ownership, Budget()))
                (folder, name, share), overrides = pickle.loads(_receive(tasks))
                with machine_errors("write the ownership record"):
                    part = write_part(folder, name, root, overrides, ownership, share)
                _send_answer(tasks, part)
            except EOFError:
                raise
            except Exception as error:  # noqa: BLE001  the first process raises it
                _send_answer(tasks, _failure(error))
            while True:
                _receive(tasks)  # until the first process has read the answer
    finally:
        os._exit(0)


def _failure(error: Exception) -> Exception:
    """Return what the first process is to raise for an error."""
    if isinstance(error, NameTaken | ProvisionError):
        return error
    return lacks_resources(error) or RuntimeError(f"{type(error).__name__}: {error}")


def _batches(tasks: socket.socket, tree: Tree, applier: LayerApplier) -> Iterator[bytes]:
    """Yield the batches, and answer to each when the next one is asked for: then its files are written.

    An empty one is answered by the metadata that the file system couldn't store. There are no more after _RECORD.
    """
    while (batch := _receive(tasks)) != _RECORD:
        if batch:
            yield batch
            _send_answer(tasks, None)
        else:
            _send_answer(tasks, (tree.overrides, applier.clamped_times))
            tree.overrides, applier.clamped_times = MetadataOverrides(), 0


def _send_answer(connection: socket.socket, answer: object) -> None:
    _send(connection, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(_LENGTH, "big"))
    connection.sendall(data)


def _receive(connection: socket.socket, flags: int = 0) -> bytes:
    """Return the next message. Raises EOFError at the end, BlockingIOError where `flags` say not to wait for it."""
    if len(length := connection.recv(_LENGTH, flags | socket.MSG_WAITALL)) < _LENGTH:
        raise EOFError
    size = int.from_bytes(length, "big")
    if len(data := connection.recv(size, socket.MSG_WAITALL) if size else b"") < size:
        raise EOFError
    return data
