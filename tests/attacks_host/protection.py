"""Which runtime holds against which attack: docs/security.md says "yes" only where a test here is marked so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.hostile import USERS


def protects(*runtimes: str, users: tuple[str, ...] = USERS) -> Callable[[Any], Any]:
    """Mark a test for the runtimes that hold against it; it gets `runtime` and, unless there is one, `user`."""

    def mark(function: Any) -> Any:
        function.protects = runtimes
        function = pytest.mark.parametrize("runtime", runtimes)(function)
        return pytest.mark.parametrize("user", users)(function) if users else function

    return mark
