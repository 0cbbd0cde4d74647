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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the attacks out of check-fast: the first one that asks for the host builds it, for all."""
    for item in items:
        if item.nodeid.startswith("tests/attacks_host/"):
            item.add_marker(pytest.mark.slow)
