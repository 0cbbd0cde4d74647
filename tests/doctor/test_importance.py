"""Which failures of `provision doctor` matter, for each runtime that start.sh may choose."""

from __future__ import annotations

import os

import pytest

from provisioner.doctor.check import Check, State
from provisioner.doctor.importance import by_importance, with_importance


def harmless(runtime: str, *names: str) -> list[str]:
    """Return the names of the checks that are harmless where all of them have failed."""
    checks = [Check(name, State.NO, "") for name in names]
    return [check.name for check in with_importance(checks, runtime) if check.is_harmless]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("chroot", ["proot", "proot paths", "userns", "subuid", "gzip"]),
        ("userns", ["chroot", "proot", "proot paths", "subuid", "gzip"]),
        ("proot", ["chroot", "userns", "unshare", "subuid", "gzip"]),
        ("", ["subuid", "gzip"]),
    ],
)
def test_a_runtime_that_is_not_needed_is_no_alarm(runtime: str, expected: list[str]) -> None:
    names = ("chroot", "proot", "proot paths", "userns", "unshare", "subuid", "space", "zstd", "proot links", "gzip")
    assert harmless(runtime, *names) == expected


def test_a_user_s_namespace_with_one_user_is_no_alarm() -> None:
    """The runtime is the first line where nothing else has failed."""
    checks = with_importance([Check("subuid", State.NO, ""), Check("runtime", State.OK, "", essential=True)], "userns")
    assert [check.name for check in by_importance(checks)] == ["runtime", "subuid"]


def test_what_only_root_can_is_an_alarm_for_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert harmless("proot", "devices", "owners") == ["devices", "owners"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert harmless("chroot", "devices", "owners") == []


def test_the_order() -> None:
    checks = [
        Check("fine", State.OK, ""),
        Check("harmless", State.NO, "", is_harmless=True),
        Check("runtime", State.OK, "", essential=True),
        Check("unknown", State.UNKNOWN, ""),
        Check("limit", State.NO, ""),
        Check("problem", State.NO, "", essential=True),
    ]
    assert [check.name for check in by_importance(checks)] == [
        "problem",
        "limit",
        "unknown",
        "runtime",
        "fine",
        "harmless",
    ]
    assert not any(check.is_harmless for check in with_importance([checks[-1]], "chroot"))
