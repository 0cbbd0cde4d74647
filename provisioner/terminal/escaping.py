"""Escaping of names that come from an image, a registry or a file system, so that they are safe on a terminal."""

from __future__ import annotations

import os


def printable(text: str | bytes) -> str:
    """Return `text` with control characters, and bytes that are not UTF-8, escaped as in Python."""
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode() for c in text)
