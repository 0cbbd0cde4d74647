"""Which runtime holds against which attack: docs/security.md says "yes" only where a test here is marked so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.containers import ROOTS_USERNS
from tests.support.hostile import USERS


def protects(*runtimes: str, users: tuple[str, ...] = USERS) -> Callable[[Any], Any]:
    """Mark a test for the runtimes that hold against it; it gets `runtime` and, unless there is one, `user`.

    userns has to hold for root as for users.
    """
    if "userns" in runtimes:
        runtimes = (*runtimes, ROOTS_USERNS)

    def mark(function: Any) -> Any:
        function.protects = runtimes
        function = pytest.mark.parametrize("runtime", runtimes)(function)
        return pytest.mark.parametrize("user", users)(function) if users else function

    return mark
