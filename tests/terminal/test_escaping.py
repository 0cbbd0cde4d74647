"""Names from outside are safe to show on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.terminal.escaping import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("usr/bin/env", "usr/bin/env"),
        ("n\u00e4me", "n\u00e4me"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eevil", r"\u202eevil"),
        (b"\xff.txt", r"\udcff.txt"),
        (b"plain", "plain"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


@given(st.one_of(st.binary(), st.text()))
def test_anything_can_be_shown(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
