"""Pipeline stages that run at the same time: an iterator that a thread consumes ahead of its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Yields the items of an iterator that a thread of its own consumes, from now on and at most `depth` items ahead.

    Decompressing, hashing and system calls release the GIL, so that such stages use several processors. An exception of
    the iterator is raised in the reader. This is a context manager: leaving it lets the thread end.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._queue: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._free_slots = threading.Semaphore(depth)
        self._is_stopped = False
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def __iter__(self) -> Iterator[T]:
        """Yield the items in order. Raises what the iterator raises."""
        while not isinstance(item := self._queue.get(), _End):
            self._free_slots.release()
            yield item
        if item.error is not None:
            raise item.error

    def __enter__(self) -> Prefetcher[T]:
        """Return the prefetcher itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the thread end after its current item."""
        self._is_stopped = True
        self._free_slots.release()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                self._queue.put(item)
                self._free_slots.acquire()
                if self._is_stopped:
                    break
        except BaseException as raised:  # noqa: BLE001  the reader raises it
            error = raised
        finally:
            # Also after a stop: the thread of another stage may still be waiting for an item of this one.
            self._queue.put(_End(error))
            if isinstance(self._items, Generator):
                self._items.close()  # in the thread that runs it


class _End:
    """Marks the end of the items; `error` is the exception that caused it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
