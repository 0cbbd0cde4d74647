"""The host that is attacked, shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hostile import Host, hostile_host


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host with a container for each runtime. All attacks on it run together, once."""
    with hostile_host() as built:
        yield built
