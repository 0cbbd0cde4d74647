"""When to try again: pauses, their limits, and what servers say in Retry-After."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from provisioner.registry.retry import GIVE_UP_SECONDS, LONGEST_PAUSE_SECONDS, MAX_PAUSES, Backoff, Timing, retry_after
from tests.support.scripted_registry import Time


def pauses(backoff: Backoff, time: Time, after: float = 0.0) -> list[float]:
    """All that there are, slept one after another."""
    taken = []
    while (pause := backoff.pause(after)) is not None:
        time.sleep(pause)
        taken.append(pause)
    return taken


def test_pauses_grow_to_a_limit_and_end() -> None:
    time = Time()
    assert pauses(Backoff(time.timing, 9), time) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert LONGEST_PAUSE_SECONDS == 30


def test_no_two_clients_come_back_together() -> None:
    time = Time()
    chances = iter((0.0, 0.5, 1.0))
    timing = Timing(lambda: time.now, time.sleep, lambda: next(chances))
    assert [Backoff(timing, 3).pause() for _ in range(3)] == [0.25, 0.375, 0.5]


def test_progress_begins_anew() -> None:
    time = Time()
    backoff = Backoff(time.timing, 3)
    assert pauses(backoff, time) == [0.5, 1, 2]
    backoff.reset()
    assert pauses(backoff, time) == [0.5, 1, 2]


def test_what_a_server_wants_comes_on_top_and_nothing_is_waited_for_longer_than_the_limit() -> None:
    time = Time()
    assert pauses(Backoff(time.timing, MAX_PAUSES), time, after=100.0) == [100.5, 101]
    assert Backoff(time.timing, MAX_PAUSES).pause(GIVE_UP_SECONDS) is None
    assert Backoff(time.timing, MAX_PAUSES).pause(float("inf")) is None
    assert Backoff(time.timing, MAX_PAUSES).pause(-5.0) == 0.5


def test_silence_counts_too() -> None:
    time = Time()
    backoff = Backoff(time.timing, MAX_PAUSES)
    time.now += GIVE_UP_SECONDS - 1
    assert backoff.pause() == 0.5
    time.now += 1
    assert backoff.pause() is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
        ("Wednesday, 21-Oct-15 07:28:10 GMT", 10),
        ("9" * 15, float("9" * 15)),
        ("9" * 16, 0),
        ("9" * 5000, 0),
        ("-5", 0),
        ("+5", 0),
        ("1.5", 0),
        ("1e9", 0),
        ("\u0665", 0),
        ("soon", 0),
        ("", 0),
        ("Wed, 99 Oct 2015 99:99:99 GMT", 0),
        ("Wed, 21 Oct 99999999999 07:28:30 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:30 +9999999", 0),
        ("\x1b[31m", 0),
    ],
)
def test_what_retry_after_says(value: str, seconds: float) -> None:
    assert retry_after({"Retry-After": value, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}) == seconds


@pytest.mark.parametrize("date", [{}, {"Date": "garbage"}])
def test_a_date_without_the_servers_own_counts_from_now(date: dict[str, str]) -> None:
    assert 50 < retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True), **date}) < 70
    assert retry_after(date) == 0
