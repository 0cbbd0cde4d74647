"""The order of tags, by example and by its laws."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.registry.tag_order import newest_first

# Each line is in the order that is wanted.
ORDERS = {
    "numbers": "24.10 24.04 22.04 9",
    "numbers of several digits": "3.13 3.10 3.9 3.2 3",
    "a release is older than its last patch": "3.13.1 3.13.0 3.13 3.12.7 3.12 3",
    "latest": "latest latest-slim 24.04 stable",
    "variants": "24.04 24.04-minimal 24.04-slim 22.04 22.04-minimal",
    "numbers in variants": "3.13.0 3.13.0-alpine 3.13.0-alpine3.20 3.13.0-alpine3.19 3.13.0-alpine3.9 3.13.0-slim",
    "packaging revisions": "16.4.0 16.4.0-debian-12-r10 16.4.0-debian-12-r9 16.3.0-debian-12-r19",
    "candidates": "3.13.0 3.13.0-slim 3.13.0rc3 3.13.0rc2 3.13.0rc2-slim 3.13.0b4 3.13.0a6 3.12.9",
    "candidates, with dots": "v1.31.0 v1.31.0-rc.1 v1.31.0-rc.0 v1.31.0-beta.0 v1.31.0-alpha.3 v1.30.9",
    "candidates, with variants": "8.0.0 8.0.0-noble 8.0.0-rc10-noble 8.0.0-rc9-noble",
    "other words for them": "1.22.0 1.22.0-ea 1.22.0-preview1 1.22.0-M2 1.22.0-M1 1.22.0-SNAPSHOT",
    "letters need a number to be stages": "8 8-a 8-b 8-rc1 8-b1 8-a1",
    "alpine is no alpha": "1.2-alpine 1.2-bookworm 1.2-alpha1 1.1",
    "prefix v": "v2.0 1.9 v1.8",
    "dates": "20240923 20240606 2023-12-01 20230901120000 20230901",
    "dates after versions": "3.20 3.19 20240923 20240606 edge",
    "years are versions": "2024.10.1 2024.9.3 2023.12.0",
    "names by their dates": "bookworm bookworm-20241016 bookworm-20240904 bookworm-slim trixie",
    "names after versions": "12.7 12 stable stable-slim testing",
    "commits last": "1.0 stable 3f2a1bc 9c8d7e6f sha-0a1b2c3",
    "build numbers": "1234567 1234566 999",
    "signatures last": f"1.0 edge sha256-{'a1' * 32}.sig",
}


@pytest.mark.parametrize("line", ORDERS.values(), ids=ORDERS)
def test_newest_first(line: str) -> None:
    wanted = line.split()
    for seed in range(5):
        shuffled = random.Random(seed).sample(wanted, len(wanted))
        assert newest_first(shuffled) == wanted


tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True) | st.text(max_size=200)


@given(st.lists(tags, unique=True))
def test_any_text_has_one_place(names: list[str]) -> None:
    once = newest_first(names)
    assert sorted(once) == sorted(names)
    assert newest_first(reversed(names)) == once


@given(
    st.lists(st.integers(0, 10**30), min_size=1, max_size=4), st.lists(st.integers(0, 10**30), min_size=1, max_size=4)
)
def test_plain_versions_compare_as_lists_of_numbers(one: list[int], other: list[int]) -> None:
    def version(numbers: list[int]) -> str:
        # With a v, none of them is a date.
        return "0." + ".".join(map(str, numbers))

    first = newest_first({version(one), version(other)})[0]
    assert first == version(max(one, other))
