"""The XDG directories of a user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from provisioner.filesystem.user_directories import user_directory


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/me"}, "/caches/provision"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/provision"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/provision"),
    ],
)
def test_the_variable_goes_before_the_home(environment: dict[str, str], expected: str) -> None:
    assert user_directory("XDG_CACHE_HOME", ".cache", environment) == Path(expected)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_a_home_that_is_a_path_the_password_file_has_it(environment: dict[str, str]) -> None:
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert user_directory("XDG_CACHE_HOME", ".cache", environment) == Path(home, ".cache/provision")


def test_a_user_that_nobody_knows_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    assert user_directory("XDG_CACHE_HOME", ".cache", {}) is None
