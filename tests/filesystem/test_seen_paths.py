from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.filesystem.seen_paths import SeenPaths
from tests.support.tools import memory_taken

MILLION = """
paths = SeenPaths()
for number in range(10**6):
    assert paths.add(b"usr/share/doc/package-%d/copyright" % number)
assert all(b"usr/share/doc/package-%d/copyright" % number in paths for number in range(0, 10**6, 1000))
assert not any(b"usr/share/doc/package-%d" % number in paths for number in range(0, 10**6, 1000))
"""


@given(st.lists(st.tuples(st.binary(max_size=2), st.booleans()), max_size=400))
def test_it_is_a_set(steps: list[tuple[bytes, bool]]) -> None:
    paths, expected = SeenPaths(), set[bytes]()
    for path, is_added in steps:
        if is_added:
            assert paths.add(path) == (path not in expected)
            expected.add(path)
        assert (path in paths) == (path in expected)
    paths.clear()
    assert not any(path in paths for path in expected)


@pytest.mark.slow
def test_a_million_paths_are_small() -> None:
    assert memory_taken("from provisioner.filesystem.seen_paths import SeenPaths", MILLION) < 40 * 2**20
