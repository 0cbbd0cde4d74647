"""Worker processes that extract layers at the same time as the main process, where there are processors for them.

The GIL lets only one thread run Python code, so that several processors need several processes. They are forked; pipes
carry the bytes of tasks to them and pickled results back.
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

from provisioner.errors import MachineError, ProvisionError
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.stream import StreamReader

T = TypeVar("T")

Work = Callable[[int, Iterator[bytes]], Iterator[T]]
"""Does a task: takes its number and its bytes, reads them to their end, and yields results."""

_PIPE = 1 << 20
"""The size of a pipe in bytes, where the kernel allows it."""
_PIECE, _DEPTH = 1 << 16, 128
"""Output of a worker is read in pieces of so many bytes, and so many of them wait for the main process at most."""
_BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LENGTH = 4
"""The bytes of the number of a task or the length of a chunk or result, in front of it."""
_END, _BROKEN = 0, 2**32 - 1
"""In place of the length of a chunk: the task has no more chunks, or the rest of them can't be read."""


class WorkerKilled(MachineError):
    """A worker process was killed: for lack of memory, or by Android, which limits the processes of an app."""

    usual_hint = "see that there is enough memory, and try again"


def may_fork() -> bool:
    """Return whether this process may fork: not while it has other threads, since they may hold locks."""
    return hasattr(os, "fork") and threading.active_count() == 1


class Workers(Generic[T]):
    """A context manager that forks up to `count` worker processes, which call `work` for tasks, and kills them at exit.

    Where the system refuses to fork, there are fewer workers or none; without any, the object is false. When the main
    process dies, they end as well, since their pipes are closed then.
    """

    def __init__(self, count: int, work: Work[T]) -> None:
        self._count = count
        self._work = work
        self._workers: list[_Worker] = []
        self._tasks: dict[int, _Task] = {}

    def __enter__(self) -> Workers[T]:
        """Fork the worker processes."""
        try:
            with suppress(OSError):
                for _ in range(self._count):
                    self._workers.append(_Worker(self._work, self._workers))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the worker processes."""
        self._kill()

    def __bool__(self) -> bool:
        """Return whether there are any worker processes."""
        return bool(self._workers)

    def begin(self, tasks: Mapping[int, Iterator[bytes]]) -> None:
        """Start `tasks`, the bytes of each by its number, in order, as soon as a worker is free. Call it only once."""
        self._tasks = {number: _Task(number, chunks) for number, chunks in tasks.items()}
        waiting = deque(self._tasks.values())
        for worker in self._workers:
            worker.begin(waiting)

    def results(self, number: int) -> Iterator[T]:
        """Yield the results of a task. Read them to the end, for all tasks in their order.

        Raises what `work` raises, what iterating over the bytes of the task raises, and WorkerKilled.
        """
        task = self._tasks[number]
        worker = task.worker.get()
        while (result := worker.read_result()) is not None:
            if isinstance(result, Exception):
                raise task.failure or result
            yield result

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


class _Task:
    """A task and its state."""

    def __init__(self, number: int, chunks: Iterator[bytes]) -> None:
        self.number = number
        self.failure: Exception | None = None
        """What iterating over the chunks has raised."""
        self.worker: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        """The worker that does the task, as soon as it starts."""
        self._chunks = chunks

    def read(self) -> Iterator[bytes]:
        """Yield the chunks that aren't empty, up to the end or to an error, which becomes `failure`."""
        try:
            yield from filter(None, self._chunks)
        except Exception as error:  # noqa: BLE001  Workers.results raises it
            self.failure = error


class _Worker:
    """The main process's side of a worker process."""

    def __init__(self, work: Work[Any], others: Sequence[_Worker]) -> None:
        with ExitStack() as stack:
            task_reader, self._input = map(stack.enter_context, _pipe())
            self._output, result_writer = map(stack.enter_context, _pipe())
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)
            try:
                self._pid = os.fork()
                if not self._pid:
                    _serve(work, task_reader, result_writer, (self, *others))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            stack.pop_all()
        task_reader.close()
        result_writer.close()
        self._prefetcher: Prefetcher[bytes] | None = None
        self._results = StreamReader(())

    def begin(self, tasks: deque[_Task]) -> None:
        """Do tasks from `tasks` until it is empty. From now on, each pipe is closed by the thread that uses it."""
        self._prefetcher = Prefetcher(self._read(), _DEPTH)
        self._results = StreamReader(self._prefetcher)
        threading.Thread(target=self._feed, args=(tasks,), name="feed", daemon=True).start()

    def read_result(self) -> Any:
        """Return the next result of the current task; None at its end, an exception where it has failed.

        Raises WorkerKilled.
        """
        length = int.from_bytes(self._results.read(_LENGTH), "big")
        data = self._results.read(length)
        if not data or len(data) < length:
            raise WorkerKilled("a process that unpacks layers was killed")
        return pickle.loads(data)

    def kill(self) -> None:
        """Kill the process."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        if self._prefetcher:
            self._prefetcher.__exit__(None, None, None)
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
        """Send tasks to the process until none is left, or one has failed: nobody reads later results then."""
        with suppress(IndexError, BrokenPipeError), self._input:
            while True:
                task = tasks.popleft()
                task.worker.put(self)
                _send(self._input, task.number)
                for chunk in task.read():
                    _send(self._input, len(chunk), chunk)
                if task.failure:
                    _send(self._input, _BROKEN)
                    return
                _send(self._input, _END)


def _serve(work: Work[Any], tasks: io.FileIO, results: io.FileIO, others: Iterable[_Worker]) -> NoReturn:
    """Do tasks in the worker process until no more come, or one has failed, and exit.

    SIGINT, SIGTERM and SIGHUP stay blocked: the main process handles them.
    """
    try:
        for other in others:  # while this process holds copies of their pipes, these would never end
            other.close()
        incoming: BinaryIO = io.BufferedReader(tasks)
        result: Any = None
        while result is None and (header := incoming.read(_LENGTH)):
            for result in _with_end(work(int.from_bytes(header, "big"), _received_chunks(incoming))):
                data = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
                _send(results, len(data), data)
    finally:
        os._exit(0)


def _with_end(results: Iterator[Any]) -> Iterator[Any]:
    """Yield the results of a task, and at their end None or the exception that was raised."""
    try:
        yield from results
    except ProvisionError as error:
        yield error
    except Exception as error:  # noqa: BLE001  the main process raises it
        yield RuntimeError(f"{type(error).__name__}: {error}")
    else:
        yield None


def _received_chunks(incoming: BinaryIO) -> Iterator[bytes]:
    """Yield the chunks of a task. Raises EOFError where they can't be read to their end."""
    while header := incoming.read(_LENGTH):
        length = int.from_bytes(header, "big")
        if length == _END:
            return
        if length == _BROKEN:
            break
        yield incoming.read(length)
    raise EOFError  # nobody reads the results


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    with suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    return io.FileIO(read), io.FileIO(write, "w")


def _send(pipe: io.FileIO, number: int, data: bytes = b"") -> None:
    """Write a number, and `data` behind it."""
    for part in (number.to_bytes(_LENGTH, "big"), data):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]
