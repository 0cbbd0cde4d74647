"""The line about a download: true, and whole at any width."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.terminal.transfer import Transfer, TransferState, progress_line, status_line

MB = 1_000_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def transfer(total: int = 400 * MB) -> tuple[Transfer, Clock]:
    clock = Clock()
    return Transfer(total, lambda: 7 * MB, clock), clock


def test_the_line_at_three_widths() -> None:
    state = TransferState(427 * MB, 123 * MB, 100 * MB, 12.3 * MB, 0, "layer 2 of 5")
    assert status_line(state, 200) == "28 %, 123.0 MB of 427.0 MB, 12.3 MB/s, 25 s left, layer 2 of 5"
    assert status_line(state, 60) == "28 %, 123.0 MB of 427.0 MB, 12.3 MB/s, 25 s left"
    assert status_line(state, 40) == "28 %, 123.0 MB of 427.0 MB, 12.3 MB/s"
    assert status_line(state, 20) == "28 %, 12.3 MB/s"
    assert status_line(state, 4) == "28 %"


def test_when_all_is_there_it_says_what_is_unpacked() -> None:
    state = TransferState(427 * MB, 427 * MB, 0, 0, 640 * MB, "layer 5 of 5")
    assert status_line(state, 40) == "unpacking, 640.0 MB, layer 5 of 5"


def test_what_was_there_before_is_no_speed() -> None:
    counted, clock = transfer()
    counted.count_cached(300 * MB)
    clock.now += 1
    assert counted.state().speed == 0
    assert counted.state().arrived == 300 * MB
    counted(10 * MB)
    clock.now += 1
    assert counted.state().speed == 5 * MB


def test_the_speed_is_that_of_the_last_seconds() -> None:
    counted, clock = transfer()
    for count in [50 * MB] * 2 + [MB] * 20:
        clock.now += 1
        counted(count)
    assert counted.state().speed == pytest.approx(MB, rel=0.3)
    clock.now += 1000
    assert counted.state().speed < MB / 100


def test_bytes_that_are_received_again_are_taken_back() -> None:
    counted, clock = transfer(10 * MB)
    counted(8 * MB)
    clock.now += 1
    counted(-8 * MB)
    assert (counted.state().arrived, counted.state().speed) == (0, 0)


@pytest.mark.parametrize(
    ("left", "shown"), [(0.2, "1 s"), (98.5, "99 s"), (150, "3 min"), (5900, "99 min"), (6000, "2 h"), (90000, "26 h")]
)
def test_time_left_is_in_units_that_say_enough(left: float, shown: str) -> None:
    state = TransferState(int(left * MB) + 1, 0, 0, MB, 0, "")
    assert status_line(state, 80).endswith(f", {shown} left")


@given(
    st.integers(1, 10**15),
    st.floats(0, 1),
    st.floats(0, 1e12),
    st.integers(0, 10**15),
    st.integers(0, 120),
)
def test_no_part_is_cut(total: int, share: float, speed: float, unpacked: int, columns: int) -> None:
    state = TransferState(total, int(total * share), 0, speed, unpacked, "layer 12 of 127")
    line = status_line(state, columns)
    assert len(line) <= columns
    part = r"\d+ %|[\d.]+ [kMGT]?B( of [\d.]+ [kMGT]?B)?|[\d.]+ [kMGT]?B/s|\d+ (s|min|h) left|unpacking|layer 12 of 127"
    assert all(re.fullmatch(part, each) for each in line.split(", ")) or line == ""


def test_other_jobs_have_the_same_units() -> None:
    state = TransferState(427 * MB, 123 * MB, 123 * MB, 12.3 * MB, 0, "image.tar")
    assert progress_line(state, "B", 80) == "28 %, 123.0 MB of 427.0 MB, 12.3 MB/s, 25 s left, image.tar"
    assert progress_line(state, "B", 30) == "28 %, 123.0 MB of 427.0 MB"
    assert progress_line(state, "B", 80, is_known=False) == "123.0 MB, 12.3 MB/s, image.tar"
    whole = TransferState(MB, MB, MB, 0, 0, "")
    assert progress_line(whole, "B", 80) == "100 %, 1.0 MB of 1.0 MB"
    assert progress_line(TransferState(0, 0, 0, 0, 0, ""), "B", 80) == "100 %, 0 B of 0 B"
    tags = TransferState(1_200, 7, 7, 3, 0, "ubuntu")
    assert progress_line(tags, "tag", 80) == "7 of 1,200 tags, ubuntu"
    assert progress_line(tags, "tag", 80, is_known=False) == "7 tags, ubuntu"
    assert progress_line(tags, "tag", 6) == "ubuntu"
