"""Requests side by side."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import count, islice

import pytest

from provisioner.errors import NetworkError
from provisioner.registry.parallel import in_parallel
from tests.support.waiting import wait_until


def asking() -> int:
    """How many threads are still there to ask."""
    return sum(thread.name.startswith("ask-") for thread in threading.enumerate())


def test_answers_are_in_order_and_work_runs_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=60)

    def work(number: int) -> int:
        together.wait()
        time.sleep(0.002 * (7 - number % 8))
        return number * 2

    assert list(in_parallel(work, range(16), 4)) == [number * 2 for number in range(16)]


def test_an_error_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise NetworkError("number two")
        return number

    answers = in_parallel(work, range(9), 3)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(NetworkError, match="number two"):
        next(answers)


def test_it_runs_no_further_ahead_than_it_says_and_stops_with_its_reader() -> None:
    done: list[int] = []
    with closing(in_parallel(done.append, count(), 3)) as answers:
        assert list(islice(answers, 4)) == [None] * 4
    wait_until(lambda: not asking())
    assert len(done) <= 4 + 2 * 3


def test_what_has_not_begun_never_does() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number >= 4:
            gate.wait(60)

    with closing(in_parallel(work, count(), 3)) as answers:
        list(islice(answers, 4))
    gate.set()
    wait_until(lambda: not asking())
    assert len(begun) <= 4 + 3


def test_nothing_to_do() -> None:
    assert list(in_parallel(str, [], 3)) == []
