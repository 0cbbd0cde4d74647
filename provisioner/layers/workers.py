"""Worker processes that unpack layers at the same time as the main process, where there are processors for them.

The GIL lets only one thread run Python code, so that several processors need several processes. They are forked. A
socket carries tasks to them (see `task_messages`), and a pipe carries pickled results back.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from provisioner.archives.stream import StreamReader
from provisioner.errors import MachineError, ProvisionError, lacks_resources
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.task_messages import receive_task, send_broken, send_task, wait_until_done
from provisioner.sources import LayerBlob
from provisioner.threads import BackgroundThread

T = TypeVar("T")

Work = Callable[[int, Iterator[bytes]], Iterator[T]]
"""Does a task: takes its number and its bytes, reads them to their end, and yields results."""

_PIPE = 1 << 20
"""The size of a pipe in bytes, where the kernel allows it."""
_PIECE, _DEPTH = 1 << 16, 128
"""Output of a worker is read in pieces of so many bytes, and so many of them wait for the main process at most."""
_BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WorkerKilled(MachineError):
    """A worker process was killed: for lack of memory, or by Android, which limits the processes of an app."""

    usual_hint = "see that there is enough memory, and try again"

    def __init__(self, message: str = "a process that unpacks layers was killed", hint: str = "") -> None:
        super().__init__(message, hint)


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

    def begin(self, tasks: Mapping[int, LayerBlob]) -> None:
        """Start `tasks`, the blob of each by its number, in order, as soon as a worker is free. Call it only once."""
        self._tasks = {number: _Task(number, blob) for number, blob in tasks.items()}
        waiting = deque(self._tasks.values())
        for worker in self._workers:
            worker.begin(waiting)

    def results(self, number: int) -> Iterator[T]:
        """Yield the results of a task. Read them to the end, for all tasks in their order.

        Raises what `work` raises, what reading its blob raises, and WorkerKilled.
        """
        task = self._tasks[number]
        worker = task.worker.get()
        try:
            while (result := worker.read_result()) is not None:
                if isinstance(result, Exception):
                    raise result
                yield result
        except Exception:
            if task.failure:  # which is why the worker has failed, or ended
                raise task.failure from None
            raise

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


class _Task:
    """A task and its state."""

    def __init__(self, number: int, blob: LayerBlob) -> None:
        self.number = number
        self.blob = blob
        self.failure: Exception | None = None
        """What sending the task has raised; set before the process fails for that reason."""
        self.worker: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        """The worker that does the task, as soon as it starts."""


class _Results(StreamReader):
    """What a worker sends, as a file that can be unpickled from."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer, and return its size; less at the end."""
        filled = 0
        while filled < len(buffer) and (piece := self.read(min(_PIECE, len(buffer) - filled))):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def readline(self) -> bytes:
        """Raise UnpicklingError: no protocol since 1 has lines."""
        raise pickle.UnpicklingError


class _Worker:
    """The main process's side of a worker process."""

    def __init__(self, work: Work[Any], others: Sequence[_Worker]) -> None:
        with ExitStack() as stack:
            self._alive, alive = map(stack.enter_context, _pipe())
            task_reader, self._input = map(stack.enter_context, socket.socketpair())
            self._output, result_writer = map(stack.enter_context, _pipe())
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)
            try:
                self._pid = os.fork()
                if not self._pid:
                    _serve(work, task_reader, result_writer, (self, *others))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            stack.pop_all()
        alive.close()
        task_reader.close()
        result_writer.close()
        self._prefetcher: Prefetcher[bytes] | None = None
        self._results = _Results(())

    def begin(self, tasks: deque[_Task]) -> None:
        """Do tasks from `tasks` until it is empty. From now on, each pipe is closed by the thread that uses it."""
        self._prefetcher = Prefetcher(self._read(), _DEPTH)
        self._results = _Results(self._prefetcher)
        BackgroundThread(self._feed, "feed", (tasks,)).start()

    def read_result(self) -> Any:
        """Return the next result of the current task; None at its end, an exception where it has failed.

        Raises WorkerKilled.
        """
        try:
            return pickle.load(self._results)  # as it is read, so that it isn't in memory twice
        except (EOFError, pickle.UnpicklingError):
            raise WorkerKilled from None

    def kill(self) -> None:
        """Kill the process, and wait until those that it has forked have ended as well."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        with self._alive:
            self._alive.read()
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
        with suppress(IndexError, BrokenPipeError, ConnectionResetError), self._input:
            is_free = True
            while is_free:
                task = tasks.popleft()
                task.worker.put(self)
                try:
                    send_task(self._input, task.number, task.blob)
                except (BrokenPipeError, ConnectionResetError):
                    raise
                except Exception as error:  # noqa: BLE001  Workers.results raises it
                    task.failure = error  # before the process knows of it, and ends
                    send_broken(self._input)
                is_free = wait_until_done(self._input, task.blob)


def _serve(work: Work[Any], tasks: socket.socket, results: io.FileIO, others: Iterable[_Worker]) -> NoReturn:
    """Do tasks in the worker process until no more come, or one has failed, and exit.

    SIGINT, SIGTERM and SIGHUP stay blocked: the main process handles them.
    """
    try:
        for other in others:  # while this process holds copies of their pipes, these would never end
            other.close()
        result: Any = None
        while result is None and (task := receive_task(tasks)):
            for result in _with_end(work(task.number, task.chunks())):
                with io.BufferedWriter(io.FileIO(results.fileno(), "w", closefd=False)) as buffered:
                    pickle.dump(result, buffered, pickle.HIGHEST_PROTOCOL)
            task.finish()
    finally:
        os._exit(0)


def _with_end(results: Iterator[Any]) -> Iterator[Any]:
    """Yield the results of a task, and at their end None or the exception that was raised."""
    try:
        yield from results
    except ProvisionError as error:
        yield error
    except Exception as error:  # noqa: BLE001  the main process raises it
        yield lacks_resources(error) or RuntimeError(f"{type(error).__name__}: {error}")
    else:
        yield None


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    with suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    return io.FileIO(read), io.FileIO(write, "w")
