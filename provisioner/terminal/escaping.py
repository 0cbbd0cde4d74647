"""Escaping of names that come from an image, a registry or a file system, so that they are safe on a terminal."""

from __future__ import annotations

import os


def printable(text: str | bytes) -> str:
    """Return `text` safe to show on one line of a terminal; an escape sequence of Python stands for what isn't.

    That is whatever Unicode doesn't count among the letters, marks, numbers, punctuation, symbols and the space:
    control characters, C1's too (U+0080 to U+009F, of which 8-bit terminals take one for ESC [), those that turn the
    direction of the text or can't be seen, line separators, surrogates (bytes that are no text), and what nobody has
    defined. For all names that come from an image, a registry, a record or a file system.
    """
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode() for c in text)
