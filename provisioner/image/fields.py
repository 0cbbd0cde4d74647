"""Reads JSON documents and checks the type of each field. Errors name the field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from provisioner.errors import MalformedImage, error_context
from provisioner.image.digest import Digest
from provisioner.image.keys import Fields, make_object, refuse_ambiguous_keys
from provisioner.image.platform import Platform
from provisioner.terminal.escaping import printable


def parse_document(data: bytes, what: str, fields: Fields) -> dict[str, Any]:
    """Return the JSON object in `data`, which errors call `what`.

    Raises MalformedImage, also if one of `fields` occurs twice or in another case. Bytes that are not UTF-8 become
    surrogates in the texts of the object, which JsonObject refuses or replaces, depending on the field.
    """
    try:
        value = json.loads(data.decode(errors="surrogateescape"), object_pairs_hook=make_object)
        if not isinstance(value, dict):
            raise MalformedImage(f"{what} is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"{what} is not JSON: {printable(str(error)[:200])}") from None
    refuse_ambiguous_keys(value, fields, what)
    return value


def parse_digest(text: str, where: str) -> Digest:
    """Return the digest in a field of a document. `where` names the field. Raises MalformedImage."""
    with error_context(where):
        return Digest.parse(text)


def parse_platform(value: Mapping[str, Any], where: str) -> Platform | None:
    """Return the platform in an object with `os`, `architecture` and `variant`; None without an architecture.

    Raises MalformedImage.
    """
    fields = JsonObject(value, where)
    words = tuple(fields.optional_text(key) for key in ("os", "architecture", "variant"))
    for word in words:
        if not re.fullmatch(r"[A-Za-z0-9._+-]{0,64}", word):
            raise MalformedImage(f"{where} has {word[:100]!r}, which names no platform")
    return Platform.normalized(*words) if words[1] else None


T = TypeVar("T")


_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


class JsonObject:
    """A JSON object; `where` names it in errors, such as `manifest.config`."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedImage(f"{where} is {'missing' if value is None else 'not a JSON object'}")
        self.value: dict[str, Any] = value
        self._where = where

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a field, or None if it is missing or null. Raises MalformedImage for another type."""
        found = self.value.get(key)
        if found is None or (isinstance(found, kind) and not isinstance(found, bool)):
            return found
        raise MalformedImage(f"{self._where}.{key} is {_NAMES[type(found)]}, not {_NAMES[kind]}")

    def text(self, key: str) -> str:
        """Return a text. Raises MalformedImage if it is missing or empty."""
        found = self.optional_text(key)
        if not found:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return found

    def optional_text(self, key: str) -> str:
        """Return a text, empty if it is missing. Raises MalformedImage, also if it contains NUL."""
        return self._check(key, self.optional(key, str) or "")

    def shown_text(self, key: str) -> str:
        """Return a text that is only displayed. NULs and bytes that are not UTF-8 are replaced by U+FFFD."""
        return _replace_invalid(self.optional(key, str) or "")

    def shown_pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """Return the sorted names and texts of an object that is only displayed, with the same replacements."""
        pairs = JsonObject(self.optional(key, dict) or {}, f"{self._where}.{key}")
        return tuple(sorted((_replace_invalid(name), pairs.shown_text(name)) for name in pairs.value))

    def size(self, key: str) -> int:
        """Return a number of bytes. Raises MalformedImage if it is missing or negative."""
        found = self.optional(key, int)
        if found is None:
            raise MalformedImage(f"{self._where}.{key} is missing")
        if not 0 <= found < 1 << 63:
            raise MalformedImage(f"{self._where}.{key} is not a number of bytes")
        return found

    def items(self, key: str) -> list[Any]:
        """Return a list, empty if it is null. Raises MalformedImage if it is missing."""
        if key not in self.value:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return self.optional(key, list) or []

    def keys(self, key: str) -> tuple[str, ...]:
        """Return the sorted keys of an object whose values have no meaning. Raises MalformedImage."""
        return tuple(sorted(self._check(key, name) for name in self.optional(key, dict) or {}))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty if it is missing. A null in it is read as an empty text, as in Go.

        Raises MalformedImage.
        """
        found = self.optional(key, list) or []
        for item in found:
            if not isinstance(item, str | None):
                raise MalformedImage(f"{self._where}.{key} holds {_NAMES[type(item)]}, not texts")
        return tuple(self._check(key, item or "") for item in found)

    def words(self, key: str) -> tuple[str, ...]:
        """Return the words of a command, a list of texts. A text instead of a list is one word; if empty, no word."""
        if isinstance(self.value.get(key), str):
            return tuple(filter(None, (self.optional_text(key),)))
        return self.texts(key)

    def _check(self, key: str, text: str) -> str:
        """Return `text` of a field. Raises MalformedImage if it contains NUL or bytes that are not UTF-8."""
        if "\0" in text:
            raise MalformedImage(f"{self._where}.{key} contains a NUL")
        if text != _replace_invalid(text):
            raise MalformedImage(f"{self._where}.{key} contains what is not Unicode")
        return text


def _replace_invalid(text: str) -> str:
    """Return `text` with each NUL and each surrogate, which stands for a byte that is not UTF-8, replaced by U+FFFD."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)
