"""Reads settings files in TOML by a table of known keys. Errors name the file, the line and the key."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.errors import UsageError
from provisioner.filesystem.resolution import open_file
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Key:
    """One key of a settings file."""

    parse: Callable[[Any], Any]
    """Returns the setting for a value from the file; raises ValueError or UsageError."""
    help: str
    """One line that says what the key is for; the hint of an error about its value."""


_LIMIT = 4 << 20
"""The size in bytes of the largest file that is read."""
_SEARCHED_CHARACTERS = 1 << 16
"""The number of characters that are searched for the line of a key, so that long lines don't take long."""


def read_settings(path: Path) -> str:
    """Return the text of a settings file. Raises UsageError where it can't be read."""
    try:
        with open(open_file(path), "rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) <= _LIMIT:
            return data.decode()
        why = "it is too large"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or (str(error) if isinstance(error, OSError) else "this is not a path")
    raise UsageError(f"read {printable(str(path))}: {why}", "check the name and the content of the file")


def parse_settings(text: str, keys: Mapping[str, Key], name: str) -> dict[str, Any]:
    """Return the parsed value of each key that is set in `text`, which is TOML.

    Raises UsageError with the `name` of the file, the line and the key, and with the known keys after a typo.
    """
    import tomllib  # a slow import that --help doesn't need

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # for a number with too many digits, it is no TOMLDecodeError
        why = f"{name} is not TOML: {printable(str(error))}"
        raise UsageError(why, "the syntax is described at https://toml.io") from None
    return parse_table(table, text, keys, name)


def parse_table(table: Mapping[str, Any], text: str, keys: Mapping[str, Key], name: str) -> dict[str, Any]:
    """Return the parsed value of each key of `table`, which is a part of the TOML `text`. Raises as parse_settings."""
    values = {}
    for key, value in table.items():
        if key not in keys:
            near = "".join(f"; did you mean {word}?" for word in difflib.get_close_matches(key, keys, 1))
            why = f"{name} has an unknown key '{printable(key)}'{near}{line_of(text, key)}"
            raise UsageError(why, f"known keys: {', '.join(keys)}")
        try:
            values[key] = keys[key].parse(value)
        except (ValueError, UsageError) as error:
            why = f"{name}: {key}: {printable(str(error))}{line_of(text, key)}"
            raise UsageError(why, f"{key}: {keys[key].help}") from None
    return values


def line_of(text: str, key: str) -> str:
    """Return ` (line 3)` for the line of a TOML or JSON text that sets `key`; an empty text where no line is found."""
    spellings = {re.escape(key), re.escape(json.dumps(key)), re.escape(json.dumps(key, ensure_ascii=False))}
    pattern = rf"""^[^#\n]*?(?<![\w.-])['"]?(?:{"|".join(sorted(spellings))})['"]?\s*[]=:.]"""
    found = re.search(pattern, text[:_SEARCHED_CHARACTERS], re.MULTILINE)
    return f" (line {text.count(chr(10), 0, found.end()) + 1})" if found else ""


def with_list(text: str, table: str, key: str, values: Sequence[str]) -> str:
    """Return a TOML text with `key` of `table` set to this list, and everything else unchanged, also the comments.

    Comments inside of the former list are kept above the new one if they have a line of their own. Raises ValueError if
    the table is written in a form that this function can't change.
    """
    import tomllib

    expected = tomllib.loads(text)
    inner = expected.setdefault(table, {})
    if not isinstance(inner, dict):
        raise ValueError(f"{table} is not a table")
    inner[key] = list(values)
    lines = text.splitlines(keepends=True)
    changed = "".join(_with_line(lines, table, key, f"{_toml_key(key)} = {json.dumps(list(values))}\n"))
    try:
        is_right = tomllib.loads(changed) == expected
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError(f"{table} is not written as a table of its own, [{table}]")
    return changed


def _with_line(lines: list[str], table: str, key: str, line: str) -> list[str]:
    """Return the lines of a TOML text with `key` of `table` replaced by `line`, or with `line` added to the table."""
    headers = [number for number, each in enumerate(lines) if re.match(r"\s*\[", each)]
    spellings = "|".join(re.escape(word) for word in {table, json.dumps(table), f"'{table}'"})
    header = rf"\s*\[\s*({spellings})\s*\]\s*(#.*)?$"
    start = next((number for number in headers if re.match(header, lines[number])), None)
    if start is None:
        before = [*lines[:-1], lines[-1].rstrip("\r\n") + "\n", "\n"] if lines else []
        return [*before, f"[{_toml_key(table)}]\n", line]
    end = next((number for number in headers if number > start), len(lines))
    for first in range(start + 1, end):
        if last := _end_of(lines, first, end, key):
            comments = [each for each in lines[first:last] if each.lstrip().startswith("#")]
            return [*lines[:first], *comments, line, *lines[last:]]
    return [*lines[: start + 1], line, *lines[start + 1 :]]


def _end_of(lines: list[str], first: int, end: int, key: str) -> int | None:
    """Return the index of the line after the value of `key`, if line `first` sets that key; else None."""
    import tomllib

    if not re.match(rf"""\s*['"]?{re.escape(key)}['"]?\s*=""", lines[first]):
        return None
    for last in range(first + 1, end + 1):
        with suppress(ValueError):
            if list(tomllib.loads("".join(lines[first:last]))) == [key]:
                return last
    return None


def _toml_key(word: str) -> str:
    return word if re.fullmatch("[A-Za-z0-9_-]+", word) else json.dumps(word)


def texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple. Raises ValueError for any other value."""
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ValueError("not a list of texts")
    return tuple(value)


def addresses(value: Any) -> tuple[str, ...]:
    """Return a list of IP addresses as a tuple. Raises ValueError for any other value."""
    return tuple(str(ipaddress.ip_address(text)) for text in texts(value))
