"""The host that is attacked, shared by all tests, and the mark of those that are known to fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks_host.protection import PENDING
from tests.support.hostile import Host, hostile_host


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host with a container for each runtime. All attacks on it run together, once."""
    with hostile_host() as built:
        yield built


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the tests of PENDING to fail."""
    for item in items:
        if item.nodeid.startswith("tests/attacks_host/") and item.name in PENDING:
            item.add_marker(pytest.mark.xfail(strict=True, reason="not mended yet", raises=AssertionError))
