from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from provisioner.rootfs.pipeline import Ahead


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_all_items_come_in_their_order() -> None:
    with Ahead(iter(range(1000)), 3) as items:
        assert list(items) == list(range(1000))


def test_it_starts_at_once_and_runs_no_further_ahead_than_told() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with Ahead(items(), 3) as ahead:
        assert until(lambda: len(made) == 4)  # three wait, and one is at hand
        time.sleep(0.05)
        assert len(made) == 4
        assert next(iter(ahead)) == 0
        assert until(lambda: len(made) == 5)


def test_what_goes_wrong_is_raised_in_the_reader_behind_what_went_well() -> None:
    error = KeyError("mine")

    def items() -> Iterator[int]:
        yield 1
        raise error

    got: list[int] = []
    with pytest.raises(KeyError) as caught, Ahead(items(), 3) as ahead:
        got.extend(ahead)
    assert caught.value is error
    assert got == [1]


def test_leaving_early_lets_the_thread_end() -> None:
    before = set(threading.enumerate())
    with Ahead(itertools.repeat(1), 2) as ahead:
        assert next(iter(ahead)) == 1
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
