"""start.sh: quoted assignments in front of a static shell body, so that nothing from an image is ever shell text."""

from __future__ import annotations

import shlex
from dataclasses import fields

from provisioner.errors import MalformedImage
from provisioner.launch.settings import LaunchSettings
from provisioner.resources import resource


def launcher(settings: LaunchSettings, shell: str = "/bin/sh") -> bytes:
    """Return the content of start.sh, which the program `shell` runs.

    Raises MalformedImage for a value that no program can be given: one with a NUL, or with a surrogate that stands for
    no byte; ValueError for a `shell` that a script can't name.
    """
    if not shell.startswith("/") or any(character.isspace() for character in shell):
        raise ValueError(f"the first line of a script can't name {shell!r}")
    # The hyphen ends the options of the shell: the script's path, which the kernel appends, may begin with one.
    lines = [f"#!{shell} -", "# Made by provision. What begins with image_ is the image's own."]
    # Some are there for people alone, and dollars and backticks in them have to stay what they are.
    lines.append("# shellcheck disable=SC2016,SC2034")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name.endswith("_env"):
            value = tuple(entry for entry in value if entry.find("=") > 0)
        lines.append(f"{field.name}={_quoted(field.name, value)}")
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\n" + resource("scripts", "start.sh")


def _quoted(name: str, value: str | tuple[str, ...]) -> str:
    """Quote a word for the shell, or a list of words as one word."""
    text = value if isinstance(value, str) else shlex.join(value)
    try:
        unusable = b"\0" in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        unusable = True
    if unusable:
        raise MalformedImage(f"{name.replace('_', ' ')} holds what no program can be given: {value!a}")
    return shlex.quote(text)
