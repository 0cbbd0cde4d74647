"""Hypothesis strategies for texts that mean something to a shell."""

from __future__ import annotations

import os

from hypothesis import strategies as st

# Any bytes but NUL, as Python reads them from an image; those that mean something to a shell come often.
TEXT = st.one_of(
    st.text(st.sampled_from("'\"\\$`();&|<>*?[]{}~#!= \n\t\r-a\x01\x7f\x81\x88\xffé€")),
    st.binary().map(lambda value: os.fsdecode(value.replace(b"\0", b""))),
)

NAMES = TEXT.filter(lambda name: bool(name) and "=" not in name)
