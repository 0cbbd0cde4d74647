"""Background threads, which start only if there is memory for them, and imports in such a thread."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

_THREAD_SIZE = 12 << 20
"""Bytes of address space that a thread needs to start: its stack, and Python's data about it."""


def require_memory(threads: int = 1) -> None:
    """Raise MemoryError unless there is memory for this number of threads.

    Python would wait forever for a thread that ends for lack of memory before it has begun.
    """
    try:
        mmap.mmap(-1, threads * _THREAD_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError from None


class BackgroundThread(threading.Thread):
    """A daemon thread, so that the end of the process doesn't wait for it: a server may be silent."""

    def __init__(self, target: Callable[..., object], name: str, args: Sequence[Any] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)

    def start(self) -> None:
        """Start it. Raises MemoryError without memory, and RuntimeError at this user's limit of threads."""
        require_memory()
        super().start()

    def try_start(self) -> bool:
        """Start it, and return True; return False without memory or at this user's limit of threads."""
        try:
            self.start()
        except (MemoryError, RuntimeError):
            return False
        return True

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, for at most `timeout` seconds; return at once where it was never started."""
        if self.ident is not None:
            super().join(timeout)

    def run(self) -> None:
        """Call the target. It has to catch errors itself. MemoryError is ignored: there is no memory to report it."""
        with suppress(MemoryError):
            super().run()


@contextmanager
def importing_in_background(name: str) -> Iterator[None]:
    """Import a module in a thread while the block waits for something else, as for answers of a registry.

    The block should not import anything: a signal that arrives while it waits for Python's import lock would leave the
    lock held, so that the thread waits forever. The thread is joined after the block, so that processes may be forked,
    unless a signal has ended the block. An error of the import is ignored: it is raised when the module is imported
    again.
    """
    thread = BackgroundThread(_import, "import", (name,))
    thread.try_start()
    is_interrupted = False
    try:
        yield
    except BaseException as error:
        is_interrupted = not isinstance(error, Exception)
        raise
    finally:
        if not is_interrupted:
            thread.join()


def _import(name: str) -> None:
    with suppress(Exception):
        import_module(name)
