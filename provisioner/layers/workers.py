"""Processes that do a part of the work ahead of its turn, where there are processors for them.

Python runs one thread at a time; processes of its own are the way to have more than one processor work in Python. They
are forked and share nothing but what is sent: bytes go in, pickled items come out.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, BinaryIO, Generic, NoReturn, TypeVar

from provisioner.errors import MachineError, ProvisionError, lacks_resources
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.stream import StreamReader
from provisioner.threads import BackgroundThread

T = TypeVar("T")

Work = Callable[[int, Iterator[bytes]], Iterator[T]]
"""What is done with the bytes of a task, by its number. They are read to their end."""

_PIPE = 1 << 20
"""Bytes that may wait in a pipe, where that is allowed."""
_PIECE, _AHEAD = 1 << 16, 128
"""What has come back from a process waits here: at most so many pieces of so many bytes."""
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LENGTH = 4
_END, _BROKEN = 0, 2**32 - 1
"""In the place of the length of a chunk: there is no other one, and there will never be one."""


class WorkerKilled(MachineError):
    """A process was ended from outside: by a system without memory, or by Android, which allows an app only so many."""

    usual_hint = "see that there is enough memory, and try again"


def may_fork() -> bool:
    """Whether this process can be forked: one that has threads can't, since they may hold locks."""
    return hasattr(os, "fork") and threading.active_count() == 1


class Workers(Generic[T]):
    """Processes that are forked on entering and ended on leaving, and in which `work` is done: `count` or fewer.

    Where no more processes are allowed it has those that are, perhaps none, and is false then. Whatever ends this
    process, they end as well: what they read from and write to is closed then.
    """

    def __init__(self, count: int, work: Work[T]) -> None:
        self._count = count
        self._work = work
        self._workers: list[_Worker] = []
        self._tasks: dict[int, _Task] = {}

    def __enter__(self) -> Workers[T]:
        """Fork."""
        try:
            with suppress(OSError):
                for _ in range(self._count):
                    self._workers.append(_Worker(self._work, self._workers))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, whatever they are at."""
        self._end()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._workers)

    def begin(self, tasks: Mapping[int, Iterator[bytes]]) -> None:
        """Begin with tasks, in their order, each as soon as a process is free for it. To be called once."""
        self._tasks = {number: _Task(number, chunks) for number, chunks in tasks.items()}
        waiting = deque(self._tasks.values())
        for worker in self._workers:
            worker.begin(waiting)

    def results(self, number: int) -> Iterator[T]:
        """What comes of a task. That has to be read to its end, for one task after the other in their order.

        Raises what `work` raises, what the chunks of the task raise, and Killed.
        """
        task = self._tasks[number]
        worker = task.worker.get()
        while (result := worker.result()) is not None:
            if isinstance(result, Exception):
                raise task.failure or result
            yield result

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()


class _Task:
    """The bytes of a task, why they ended early if they did, and who does it."""

    def __init__(self, number: int, chunks: Iterator[bytes]) -> None:
        self.number = number
        self.chunks = chunks
        self.failure: Exception | None = None
        self.worker: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def read(self) -> Iterator[bytes]:
        """The bytes, as far as they come."""
        try:
            yield from filter(None, self.chunks)
        except Exception as error:  # noqa: BLE001  who reads the results raises it
            self.failure = error


class _Worker:
    """A process, as the one sees it that has forked it."""

    def __init__(self, work: Work[Any], others: Sequence[_Worker]) -> None:
        with ExitStack() as stack:
            theirs, self._input = map(stack.enter_context, _pipe())
            self._output, back = map(stack.enter_context, _pipe())
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
            try:
                self._pid = os.fork()
                if not self._pid:
                    _serve(work, theirs, back, (self, *others))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            stack.pop_all()
        theirs.close()
        back.close()
        self._results: Prefetcher[bytes] | None = None
        self._chunks = StreamReader(())

    def begin(self, tasks: deque[_Task]) -> None:
        """Do tasks as long as there are any. From now on each pipe is closed by the thread that uses it."""
        self._results = Prefetcher(self._read(), _AHEAD)
        self._chunks = StreamReader(self._results)
        BackgroundThread(self._feed, "feed", (tasks,)).start()

    def result(self) -> Any:
        """The next result of the task that it is at; None at the end, an exception where it has failed."""
        length = int.from_bytes(self._chunks.exactly(_LENGTH), "big")
        data = self._chunks.exactly(length)
        if not data or len(data) < length:
            raise WorkerKilled("a process that unpacks layers was killed")
        return pickle.loads(data)

    def end(self) -> None:
        """Kill it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        if self._results:
            self._results.__exit__(None, None, None)
        else:
            self.close()

    def close(self) -> None:
        """Close the pipes."""
        self._input.close()
        self._output.close()

    def _read(self) -> Iterator[bytes]:
        with self._output:
            while piece := self._output.read(_PIECE):
                yield piece

    def _feed(self, tasks: deque[_Task]) -> None:
        """Send tasks until there is none any more, or one has failed: nothing that comes later is wanted then."""
        with suppress(IndexError, BrokenPipeError), self._input:
            while True:
                task = tasks.popleft()
                task.worker.put(self)
                try:
                    _send(self._input, task.number)
                    for chunk in task.read():
                        _send(self._input, len(chunk), chunk)
                except MemoryError as error:
                    task.failure = error
                    return
                if task.failure:
                    _send(self._input, _BROKEN)
                    return
                _send(self._input, _END)


def _serve(work: Work[Any], tasks: io.FileIO, back: io.FileIO, others: Iterable[_Worker]) -> NoReturn:
    """What the process does until there are no more tasks, or one has failed.

    Signals that ask to end are for the process that has forked it, and stay blocked here.
    """
    try:
        for other in others:  # or nobody would ever see the end of a pipe
            other.close()
        incoming: BinaryIO = io.BufferedReader(tasks)
        result: Any = None
        while result is None and (header := incoming.read(_LENGTH)):
            for result in _results(work(int.from_bytes(header, "big"), _received(incoming))):
                data = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
                _send(back, len(data), data)
    finally:
        os._exit(0)


def _results(made: Iterator[Any]) -> Iterator[Any]:
    """What is sent of a task: its results, then None or what was raised."""
    try:
        yield from made
    except ProvisionError as error:
        yield error
    except Exception as error:  # noqa: BLE001  the other process raises it
        yield lacks_resources(error) or RuntimeError(f"{type(error).__name__}: {error}")
    else:
        yield None


def _received(incoming: BinaryIO) -> Iterator[bytes]:
    """The chunks of a task."""
    while header := incoming.read(_LENGTH):
        length = int.from_bytes(header, "big")
        if length == _END:
            return
        if length == _BROKEN:
            break
        yield incoming.read(length)
    raise EOFError  # nobody waits for what comes of them


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    with suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    return io.FileIO(read), io.FileIO(write, "w")


def _send(pipe: io.FileIO, number: int, data: bytes = b"") -> None:
    """Send a number, and `data`."""
    for part in (number.to_bytes(_LENGTH, "big"), data):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]
