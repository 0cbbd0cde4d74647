"""Threads that start only where there is memory for them, and imports in one."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

_THREAD_SIZE = 12 << 20
"""Bytes of address space that a thread needs before it does anything: its stack, and what Python allocates for it."""


def require_memory(threads: int = 1) -> None:
    """Raise MemoryError where there is no memory for so many threads.

    Python would wait for ever for a thread that ends for lack of memory before it has begun.
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
        """Start it. Raises MemoryError without memory, RuntimeError where this user may have no more threads."""
        require_memory()
        super().start()

    def try_start(self) -> bool:
        """Start it, and return whether it runs: not without memory, or where this user may have no more threads."""
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

    The block should import nothing itself: a signal that comes while it waits for the lock of imports would leave that
    locked, so that the thread waits for ever. The thread has ended after the block, so that processes may be forked,
    unless a signal has ended that. An error of the import is raised where the module is imported again.
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
