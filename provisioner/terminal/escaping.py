"""Escaping of names that come from an image, a registry or a file system, so that they are safe on a terminal."""

from __future__ import annotations

import os


def printable(text: str | bytes) -> str:
    """Return `text` as one line that is safe to show on a terminal, with all other characters escaped as in Python.

    Letters, marks, numbers, punctuation, symbols and the space stay as they are. Escaped are control characters, also
    C1's (8-bit terminals take U+009B for ESC [), characters that turn the direction of text or can't be seen, line
    separators, surrogates (bytes that are not UTF-8), and what Unicode doesn't define.
    """
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode() for c in text)
