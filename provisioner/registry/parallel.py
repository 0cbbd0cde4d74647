"""Many small requests at a time, their answers in order."""

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
    """One item, and what becomes of it."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._done: queue.SimpleQueue[tuple[Answer | None, BaseException | None]] = queue.SimpleQueue()

    def run(self, work: Callable[[Item], Answer]) -> None:
        try:
            self._done.put((work(self._item), None))
        except BaseException as error:  # noqa: BLE001  raised where the answer is read
            self._done.put((None, error))

    def answer(self) -> Answer:
        answer, error = self._done.get()
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]


def in_parallel(work: Callable[[Item], Answer], items: Iterable[Item], jobs: int) -> Generator[Answer, None, None]:
    """`work(item)` for each item in order, done by `jobs` threads that run at most twice that many items ahead.

    Raises what `work` raises for an item when its turn comes. The threads are daemons: Ctrl-C must not wait for a
    server that is silent.
    """
    waiting: queue.SimpleQueue[_Task[Item, Answer] | None] = queue.SimpleQueue()

    def serve() -> None:
        while task := waiting.get():
            task.run(work)

    rest = iter(items)
    ahead: deque[_Task[Item, Answer]] = deque()
    threads = [BackgroundThread(serve, f"ask-{number}") for number in range(jobs)]
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
