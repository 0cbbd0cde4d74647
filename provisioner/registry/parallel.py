"""Runs many small requests at the same time, and yields their answers in order."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import islice
from typing import Generic, TypeVar

from provisioner.threads import BackgroundThread

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Task(Generic[Item, Answer]):
    """One item to work on, and its answer or error."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._outcome: queue.SimpleQueue[tuple[Answer | None, BaseException | None]] = queue.SimpleQueue()

    def run(self, work: Callable[[Item], Answer]) -> None:
        """Call `work` and store what it returns or raises. Runs in a worker thread."""
        try:
            self._outcome.put((work(self._item), None))
        except BaseException as error:  # noqa: BLE001  raised where the answer is read
            self._outcome.put((None, error))

    def answer(self) -> Answer:
        """Wait until the work is done and return its answer, or raise its error."""
        answer, error = self._outcome.get()
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]


def in_parallel(work: Callable[[Item], Answer], items: Iterable[Item], jobs: int) -> Generator[Answer, None, None]:
    """Yield `work(item)` for each item, in order. `jobs` threads work on at most 2 * `jobs` items ahead.

    What `work` raises for an item is raised in its place in the order. The threads are daemons, so that Ctrl-C doesn't
    wait for a silent server.
    """
    waiting: queue.SimpleQueue[_Task[Item, Answer] | None] = queue.SimpleQueue()

    def run_tasks() -> None:
        while task := waiting.get():
            task.run(work)

    rest = iter(items)
    ahead: deque[_Task[Item, Answer]] = deque()
    threads = [BackgroundThread(run_tasks, f"ask-{number}") for number in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        while True:
            for item in islice(rest, 2 * jobs - len(ahead)):
                ahead.append(_Task(item))
                waiting.put(ahead[-1])
            if not ahead:
                return
            yield ahead.popleft().answer()
    finally:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for _ in threads:
            waiting.put(None)
