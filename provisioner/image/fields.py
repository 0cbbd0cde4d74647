"""Reading JSON documents: each field is checked for its type. Errors name the field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from provisioner.errors import MalformedImage, error_context
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform
from provisioner.terminal.escaping import printable


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises MalformedImage, which names it as `what`, also for invalid Unicode."""
    try:
        value = json.loads(data.decode())
        if not isinstance(value, dict):
            raise MalformedImage(f"{what} is not a JSON object")
        json.dumps(value, ensure_ascii=False).encode()  # fails for lone surrogates, which JSON can spell
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"{what} is not JSON: {printable(str(error)[:200])}") from None
    return value


def parse_digest(text: str, where: str) -> Digest:
    """Return the digest in a document's field, which `where` names. Raises MalformedImage."""
    with error_context(where):
        return Digest.parse(text)


def parse_platform(value: Mapping[str, Any], where: str) -> Platform:
    """Return the platform that an object with `os` and `architecture` describes. Raises MalformedImage."""
    fields = JsonObject(value, where)
    words = (fields.text("os"), fields.text("architecture"), fields.optional_text("variant"))
    for word in words:
        if not re.fullmatch(r"[A-Za-z0-9._+-]{0,64}", word):
            raise MalformedImage(f"{where} has {word[:100]!r}, which names no platform")
    return Platform(*words)


T = TypeVar("T")


_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


class JsonObject:
    """A JSON object; `where` names it in errors, as `manifest.config`."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedImage(f"{where} is {'missing' if value is None else 'not a JSON object'}")
        self.value: dict[str, Any] = value
        self._where = where

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a field, None where it is missing or null. Raises MalformedImage for another type."""
        found = self.value.get(key)
        if found is None or (isinstance(found, kind) and not isinstance(found, bool)):
            return found
        raise MalformedImage(f"{self._where}.{key} is {_NAMES[type(found)]}, not {_NAMES[kind]}")

    def text(self, key: str) -> str:
        """Return a text. Raises MalformedImage where it is missing or empty."""
        found = self.optional_text(key)
        if not found:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return found

    def optional_text(self, key: str) -> str:
        """Return a text without NUL, empty where it is missing. Raises MalformedImage."""
        found = self.optional(key, str) or ""
        if "\0" in found:
            raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return found

    def size(self, key: str) -> int:
        """Return a number of bytes. Raises MalformedImage where it is missing."""
        found = self.optional(key, int)
        if found is None:
            raise MalformedImage(f"{self._where}.{key} is missing")
        if not 0 <= found < 1 << 63:
            raise MalformedImage(f"{self._where}.{key} is not a number of bytes")
        return found

    def items(self, key: str) -> list[Any]:
        """Return a list. Raises MalformedImage where it is missing."""
        found = self.optional(key, list)
        if found is None:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return found

    def keys(self, key: str) -> tuple[str, ...]:
        """Return the sorted keys of an object that is used as a set. Raises MalformedImage."""
        found = self.optional(key, dict) or {}
        if any("\0" in name for name in found):
            raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return tuple(sorted(found))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts without NUL, empty where it is missing. Raises MalformedImage."""
        found = self.optional(key, list) or []
        for item in found:
            if not isinstance(item, str):
                raise MalformedImage(f"{self._where}.{key} holds {_NAMES.get(type(item), 'null')}, not texts")
            if "\0" in item:
                raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return tuple(found)
