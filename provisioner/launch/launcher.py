"""Writes start.sh: quoted assignments before a static shell body, so that no text of an image becomes shell code."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import fields

from provisioner.errors import MalformedImage
from provisioner.launch.script import body
from provisioner.launch.settings import LaunchSettings

BODY_DIGEST = "# The part below the empty line, unless somebody edits it, has the SHA-256 "
"""Begins a comment at the top of start.sh."""


def launcher(settings: LaunchSettings, shell: str = "/bin/sh") -> bytes:
    """Return the content of start.sh. `shell` is the absolute path of its interpreter.

    Raises MalformedImage for a value that can't be a program's argument: it contains a NUL, or a surrogate that stands
    for no byte. Raises ValueError for a `shell` that can't be in the first line of a script.
    """
    if not shell.startswith("/") or any(character.isspace() for character in shell):
        raise ValueError(f"the first line of a script can't name {shell!r}")
    values = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name.endswith("_env"):
            value = _join_variables(value, with_bare_names=field.name == "default_env")
        values[field.name] = _quote(field.name, value).encode("utf-8", "surrogateescape")
    return assemble(shell, values)


def assemble(shell: str, values: Mapping[str, bytes]) -> bytes:
    """Return the content of start.sh with these values, which are quoted for the shell. Missing ones are empty."""
    lines = [
        # The hyphen ends the options of the shell: the script's path, which the kernel appends, may begin with one.
        f"#!{shell} -",
        "# Written by provision. Variables that begin with image_ come from the image.",
        f"{BODY_DIGEST}{hashlib.sha256(body()).hexdigest()}",
        # Some variables are there only for readers, and the quoted text may contain dollars and backticks.
        "# shellcheck disable=SC2016,SC2034",
    ]
    assignments = [field.name.encode() + b"=" + values.get(field.name, b"''") for field in fields(LaunchSettings)]
    return b"\n".join([*(os.fsencode(line) for line in lines), *assignments]) + b"\n\n" + body()


def _join_variables(entries: tuple[str, ...], with_bare_names: bool) -> tuple[str, ...]:
    """Return the variables that env(1) can set, each name once: its last entry, at the position of its first."""
    variables = {}
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if name and (equals or with_bare_names):
            variables[name] = entry
    return tuple(variables.values())


def _quote(name: str, value: str | tuple[str, ...]) -> str:
    """Quote a word for the shell, or a list of words as one word. Raises MalformedImage that names the field."""
    text = value if isinstance(value, str) else shlex.join(value)
    try:
        is_usable = b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        is_usable = False
    if not is_usable:
        raise MalformedImage(f"{name.replace('_', ' ')} contains what no program can get as an argument: {value!a}")
    return shlex.quote(text)
