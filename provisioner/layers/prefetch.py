"""Stages that work side by side: an iterator that is run ahead of its reader, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from provisioner.threads import BackgroundThread

T = TypeVar("T")

_WAIT_FOR_MEMORY = 0.1
"""Seconds between two tries to tell the reader that there is no memory: other threads may free some."""


class Prefetcher(Generic[T]):
    """The items of an iterator, which a thread produces ahead of the reader, from now on and at most `depth` of them.

    Inflating, hashing and system calls let other threads run, so that stages which are parted by this share the
    processors. What the iterator raises is raised in the reader. A context: leaving it lets the thread end.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = False
        BackgroundThread(self._produce, "ahead").start()

    def __iter__(self) -> Iterator[T]:
        """The items, in order."""
        while not isinstance(item := self._ready.get(), _End):
            self._room.release()
            yield item
        if item.error is not None:
            raise item.error

    def __enter__(self) -> Prefetcher[T]:
        """The iterable itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the thread end with the item that it is at."""
        self._stopped = True
        self._room.release()

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                self._ready.put(item)
                self._room.acquire()
                if self._stopped:
                    break
        except BaseException as raised:  # noqa: BLE001  the reader raises it
            error = raised
        finally:
            # Also where nobody wants more: a stage that reads this one would wait for ever.
            while not self._put_end(error):
                time.sleep(_WAIT_FOR_MEMORY)
            if isinstance(self._items, Generator):
                self._items.close()  # in the thread that runs it

    def _put_end(self, error: BaseException | None) -> bool:
        """Tell the reader of the end; return False where there is no memory for that."""
        try:
            self._ready.put(_End(error))
        except MemoryError:
            return False
        return True


class _End:
    """No more items, and why if it is for an error."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
