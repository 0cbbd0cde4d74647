"""The commands that made the layers of an image, from the history in its config (image-spec, config.md)."""

from __future__ import annotations

import json
import re
from typing import Any

_SHELL = re.compile(r"^(?:RUN )?(?:\|\d+ .*? )?/bin/(?:ba)?sh -c (?:#\(nop\) +)?|^(?:RUN|/bin/sh -c) ")
"""The prefixes that docker and BuildKit add to an instruction."""
_COPIED = re.compile(r"\b((?:file|dir|multi):[0-9a-f]{12})[0-9a-f]{52}\b")
"""The names that docker and buildah give to copied files, with their digest."""


def layer_commands(config: bytes, layers: int) -> tuple[str, ...]:
    """Return the command or instruction that made each of an image's layers, from the lowest up, on one line each.

    `config` is the config as valid JSON. The texts are empty if its history is missing, or has another number of
    layers.
    """
    document: Any = json.loads(config.decode(errors="replace"))
    entries = document.get("history")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    commands = [_command(entry.get("created_by")) for entry in found if entry.get("empty_layer") is not True]
    return tuple(commands) if len(commands) == layers else ("",) * layers


def short_command(command: str) -> str:
    """Return a command for people: with short digests, as `ADD file:9d8a15341d36 in /`."""
    return _COPIED.sub(r"\1", command)


def _command(text: object) -> str:
    """Return an instruction without the prefix and suffix that builders add."""
    if not isinstance(text, str):
        return ""
    return " ".join(_SHELL.sub("", text).removesuffix("# buildkit").split())
