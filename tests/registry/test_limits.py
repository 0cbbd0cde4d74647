"""What a registry says about how much it allows."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.registry.limits import RateLimit

NOW = 1_800_000_000.0


def texts(limit: str = "", remaining: str = "", after: str = "") -> tuple[str, str]:
    """Return the text for these headers, and the hint."""
    headers = {"ratelimit-limit": limit, "ratelimit-remaining": remaining, "Retry-After": after}
    headers["Date"] = email.utils.formatdate(NOW, usegmt=True)
    parsed = RateLimit.from_headers(headers, NOW)
    return str(parsed), parsed.hint


def clock(seconds: float) -> str:
    return time.strftime("%H:%M", time.localtime(NOW + seconds))


@pytest.mark.parametrize(
    ("headers", "says", "hint"),
    [
        (("100;w=21600", "0;w=21600", ""), "; 100 are allowed in 6 hours, 0 are left", "wait, at most 6 hours"),
        (
            ("100;w=21600", "7", "1"),
            "; 100 are allowed in 6 hours, 7 are left",
            f"try again in 1 second, at {clock(1)}",
        ),
        (("100", "", "2460"), "; 100 are allowed", f"try again in 41 minutes, at {clock(2460)}"),
        (("", "", "3600"), "", f"try again in 1 hour, at {clock(3600)}"),
        (("", "", "61"), "", f"try again in 61 seconds, at {clock(61)}"),
        (("", "", ""), "", "wait a few minutes and try again"),
        (("x", "-1;w=", "soon"), "", "wait a few minutes and try again"),
        (("9" * 30, "1e3", "9" * 30), "", "wait a few minutes and try again"),
    ],
)
def test_words(headers: tuple[str, str, str], says: str, hint: str) -> None:
    assert texts(*headers) == (says, hint)


def test_a_date() -> None:
    assert texts(after=email.utils.formatdate(NOW + 600, usegmt=True))[1] == f"try again in 10 minutes, at {clock(600)}"
    assert texts(after=email.utils.formatdate(NOW - 600, usegmt=True))[1] == "wait a few minutes and try again"


def test_a_registry_cant_make_us_wait_for_years() -> None:
    assert texts(after="999999999")[1].startswith("try again in 40 days")


@given(st.text(), st.text(), st.text())
def test_hostile_headers(limit: str, remaining: str, after: str) -> None:
    says, hint = texts(limit, remaining, after)
    assert says.isprintable()
    assert hint
