"""The XDG directories of a user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.user_directories import user_directory


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/me"}, "/caches/provision"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/provision"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/provision"),
        ({"HOME": "relative"}, None),
    ],
)
def test_the_variable_goes_before_the_home(environment: dict[str, str], expected: str | None) -> None:
    assert user_directory("XDG_CACHE_HOME", ".cache", environment) == (Path(expected) if expected else None)


def test_without_home_the_password_file_has_it() -> None:
    assert user_directory("XDG_CACHE_HOME", ".cache", {}) == Path(os.path.expanduser("~"), ".cache/provision")
