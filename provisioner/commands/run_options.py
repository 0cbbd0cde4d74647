"""The options of what to run in place of what an image's config says."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence

from provisioner.errors import UsageError
from provisioner.image.run_settings import RunSettings
from provisioner.terminal.escaping import printable


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--cmd", metavar="WORDS", help="the command in place of the image's: words as a shell divides them, or JSON"
    )
    parser.add_argument(
        "--entrypoint", metavar="WORDS", help="the entrypoint in place of the image's, whose command is dropped then"
    )
    parser.add_argument(
        *("--env-image",),
        metavar="K=V",
        action="append",
        help="environment variable, as if the image had it; repeatable",
    )
    parser.add_argument("--workdir", metavar="DIR", help="the directory to start in, in place of the image's")
    parser.add_argument("--user", metavar="USER[:GROUP]", help="the user in place of the image's")


def run_settings(arguments: argparse.Namespace) -> RunSettings:
    """Return what the options say. Raises UsageError."""
    return RunSettings(
        entrypoint=_words("--entrypoint", arguments.entrypoint),
        command=_words("--cmd", arguments.cmd),
        env=_variables(arguments.env_image),
        working_dir=_directory(arguments.workdir),
        user=_user(arguments.user),
    )


def _words(option: str, text: str | None) -> tuple[str, ...] | None:
    """Return the words of a command: a JSON list, or a text that is divided as a shell does it."""
    if text is None:
        return None
    hint = f'write it as {option} \'program "an argument"\', or as {option} \'["program", "an argument"]\''
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{option} {printable(text[:200])!r} can't be divided into words", hint) from None
    if not all(isinstance(word, str) and _is_usable(word) for word in words):
        raise UsageError(f"{option} {printable(text[:200])!r} holds what is no word", hint)
    return tuple(words)


def _variables(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    for text in texts or ():
        if text.find("=") < 1:
            hint = "give a name, an equals sign and a value"
            raise UsageError(f"--env-image {printable(text[:200])!r} is not NAME=VALUE", hint)
    return None if texts is None else tuple(texts)


def _directory(text: str | None) -> str | None:
    if text is not None and not text.startswith("/"):
        raise UsageError(f"--workdir {printable(text[:200])!r} is no absolute path", "begin it with a slash")
    return text


def _user(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[^:\s]+(:[^:\s]+)?", text):
        raise UsageError(f"--user {printable(text[:200])!r} is not USER or USER:GROUP", "give names or numbers")
    return text


def _is_usable(word: str) -> bool:
    """Return whether a program can get a word as an argument."""
    return "\0" not in word and not re.search("[\ud800-\udbff]|[\udc00-\udc7f]|[\udd00-\udfff]", word)
