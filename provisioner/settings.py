"""Settings as data: one row a key, and errors that name the file, the line and the key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.errors import UsageError
from provisioner.filesystem.resolution import open_file
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Key:
    """One key: how its value is parsed, and what it is for. `parse` raises ValueError, or UsageError for a part."""

    parse: Callable[[Any], Any]
    help: str


_LIMIT = 4 << 20


def read_settings(path: Path) -> str:
    """The text of a file of settings. Raises UsageError."""
    try:
        with open(open_file(path), "rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) <= _LIMIT:
            return data.decode()
        why = "it is too large"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or (str(error) if isinstance(error, OSError) else "this is no path")
    raise UsageError(f"read {printable(str(path))}: {why}", "check the name of the file, and what is in it")


def parse_settings(text: str, keys: Mapping[str, Key], what: str) -> dict[str, Any]:
    """The parsed values of the TOML in `text`, which `what` names.

    Raises UsageError that names the line and the key, and after a typo lists the known keys.
    """
    import tomllib  # here, for a quick --help

    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = f"{what} is not TOML: {printable(str(error))}"
        raise UsageError(why, "it is written as described at https://toml.io") from None
    values = {}
    for key, value in table.items():
        if key not in keys:
            near = "".join(f"; did you mean {word}?" for word in difflib.get_close_matches(key, keys, 1))
            why = f"{what} has an unknown key '{printable(key)}'{near}{line_of(text, key)}"
            raise UsageError(why, f"known keys: {', '.join(keys)}")
        try:
            values[key] = keys[key].parse(value)
        except (ValueError, UsageError) as error:
            why = f"{what}: {key}: {printable(str(error))}{line_of(text, key)}"
            raise UsageError(why, f"{key}: {keys[key].help}") from None
    return values


def line_of(text: str, key: str) -> str:
    """` (line 3)`, where a TOML or JSON file sets `key`; nothing where that can't be told."""
    spellings = {re.escape(key), re.escape(json.dumps(key)), re.escape(json.dumps(key, ensure_ascii=False))}
    spelled = rf"""^[^#\n]*?(?<![\w.-])['"]?(?:{"|".join(sorted(spellings))})['"]?\s*[]=:.]"""
    found = re.search(spelled, text[:_LOOKED_AT], re.MULTILINE)
    return f" (line {text.count(chr(10), 0, found.end()) + 1})" if found else ""


_LOOKED_AT = 1 << 16
"""Characters of a file in which a line is looked for: lines of any length must not cost time."""


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ValueError("not a list of texts")
    return tuple(value)
