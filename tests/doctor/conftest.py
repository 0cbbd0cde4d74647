"""What the tests of doctor's modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.jail import Jail
from tests.support.leftovers import clean_place


@pytest.fixture(scope="package")
def phone() -> Iterator[Jail]:
    """A jail with Android's restrictions: no hard links, and SIGSYS for what apps may not do."""
    with clean_place() as place:
        (place / "phone").mkdir()
        yield Jail(place / "phone", "sigsys")
