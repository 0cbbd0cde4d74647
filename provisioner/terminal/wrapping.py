"""Messages on narrow terminals: a line that is too long is broken between its words, and goes on indented."""

from __future__ import annotations

import re
from collections.abc import Callable

from provisioner.terminal.tables import width_of

_COMMAND = re.compile(r"(?:\bprovision(?= (?!doesn't|can't|is\b))|[^\s;,]+/start\.sh\b)[^;,]*")
"""Commands in a hint, which end before the next semicolon or comma."""
_SPACE = "\0"
"""A space that no line ends at; no text has it."""


def style_commands(hint: str, styled: Callable[[str], str]) -> str:
    """Return a hint with each command in a style. `fill` puts a command on one line, so that it can be copied."""
    return _COMMAND.sub(lambda found: styled(found[0]).replace(" ", _SPACE), hint)


def fill(text: str, width: int | None, indent: str = "  ") -> str:
    """Return `text` in lines of at most `width` columns, broken between words; all but the first are indented.

    A word that is longer, or a command, has a line for itself, which the terminal breaks: it is copied as one line
    then. Text that begins with a space stays one line, and so does all without a width.
    """
    if width is not None and width_of(text) > width and not text.startswith(" "):
        first, *words = text.split(" ")
        lines = [first]
        for word in words:
            if width_of(lines[-1]) + 1 + width_of(word) <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(indent + word)
        text = "\n".join(lines)
    return text.replace(_SPACE, " ")
