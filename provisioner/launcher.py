"""start.sh: quoted assignments in front of a static shell body, so that nothing from an image is ever shell text."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields

from provisioner.errors import MalformedImage
from provisioner.resources import resource

RUNTIMES = ("auto", "proot", "chroot", "userns")
"""What start.sh can start the image in."""


@dataclass(frozen=True)
class LaunchSettings:
    """What start.sh knows of its image, and what its options default to.

    Each field becomes the shell variable of its name: a word, or a list of words for `eval "set -- $list"`. Bytes that
    are no UTF-8 are surrogate escapes, as `os.fsdecode` gives them.
    """

    provision_version: str
    image_reference: str
    image_platform: str  # as in linux/arm64/v8
    image_entrypoint: tuple[str, ...]
    image_command: tuple[str, ...]
    image_env: tuple[str, ...]  # K=V; what env(1) can't set is left out
    image_user: str  # a name or uid, with :GROUP or without; empty for root
    image_workdir: str
    image_stop_signal: str
    image_ports: tuple[str, ...]  # as in 80/tcp
    default_runtime: str  # of RUNTIMES
    default_dns: tuple[str, ...]
    default_hostname: str  # empty for the machine's at each start
    default_binds: tuple[str, ...]  # SRC or SRC:DST
    default_env: tuple[str, ...]  # K=V


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
