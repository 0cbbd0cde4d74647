"""Escaping of names that come from an image, a registry or a file system, so that they are safe on a terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

_SPECIAL = frozenset(b"%'\\!")
"""What printf(1), the quotes around it, or an interactive shell would change."""


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


def shell_word(text: str) -> str:
    """Return `text` quoted for sh, so that it is safe on a terminal, and can be copied from there.

    Characters that `printable` escapes are written by printf(1). Since sh drops newlines at the end of its output,
    a text that ends with one is in the dollar-single-quotes of POSIX.1-2024, which older dashes don't have.
    """
    if text.isprintable():
        return shlex.quote(text)
    octal = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in _SPECIAL and (at or byte != ord("-")) else f"\\{byte:03o}"
        for at, byte in enumerate(_encode(text))
    )
    return f"$'{octal}'" if text.endswith("\n") else f"\"$(printf '{octal}')\""


def _encode(text: str) -> bytes:
    """Return the bytes of a text as it is in the file system, or what is nearest to them."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def shell_line(words: Iterable[str]) -> str:
    """Return a command line of these words, quoted for sh as `shell_word` does it."""
    return " ".join(map(shell_word, words))
