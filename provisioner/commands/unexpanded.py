"""Paths on the command line that begin with a `~` or `$NAME` which the shell has left as it is."""

from __future__ import annotations

import argparse
import os
import re

from provisioner.errors import UsageError
from provisioner.terminal.escaping import printable, shell_word

_PATHS = (
    *("DIR", "NEW", "FILE", "NAME|DIR", "NAME|DIR|FILE", "NAME|FILE", "SOURCE", "SOURCE|DIR", "PATH[:DST]"),
    "SRC[:DST[:ro]]",
)
"""What the help calls operands and values that may be paths of this machine."""
_INSIDE = ("--workdir",)
"""Options whose DIR is one inside of the container."""
_LEFT = re.compile(r"((?:(?:docker-archive|oci-archive|oci|dir|rootfs):)?)((~|\$(?=[A-Za-z_{(])).*)", re.DOTALL)


def check_unexpanded_paths(action: argparse.Action, value: object) -> None:
    """Raise UsageError where a path among the values of an argument begins with `~` or `$NAME`."""
    if action.metavar in _PATHS and not set(_INSIDE) & set(action.option_strings):
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str):
                check_unexpanded(word)


def check_unexpanded(word: str) -> None:
    """Raise UsageError for a path, or a source at a path, that begins with `~` or `$NAME`.

    Whoever types it means what the shell makes of it, and would get a directory of that name.
    """
    if not (found := _LEFT.fullmatch(word)):
        return
    prefix, path, sign = found.groups()
    where = "in quotes or behind = or :" if sign == "~" else "in single quotes"
    full = os.path.expanduser(path) if sign == "~" else os.path.expandvars(path)
    types = [f"type {_quoted(prefix + full)}"] if full != path else []
    raise UsageError(
        f"{printable(word)}: the shell has left {sign} as it is, {where}",
        "; ".join([*types, f"for a name that begins with {sign}: {_quoted(f'{prefix}./{path}')}"]),
    )


def _quoted(word: str) -> str:
    return shell_word(word)
