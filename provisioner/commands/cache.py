"""`provision cache`: lists, prunes or clears the cache of downloads."""

from __future__ import annotations

import argparse
import time
from typing import Any

from provisioner.commands.output import make_console, write_json, write_lines
from provisioner.config import Config
from provisioner.sizes import parse_size, size_text
from provisioner.store.prune import CachedFile, cache_directory, list_files, prune, total_size
from provisioner.terminal.escaping import printable

HELP = "Show the cache of downloads, or clean it up"
EXAMPLE = "provision cache ls|prune|clear"

_DAYS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all three actions."""
    parser.add_argument(
        "action",
        choices=("ls", "prune", "clear"),
        nargs="?",
        default="ls",
        help="ls: list all files; prune: remove old ones and those above the limit; clear: remove all that no run uses",
    )
    parser.add_argument(
        "--limit",
        metavar="SIZE",
        type=_size,
        help="prune until no more than this is left: 4 GB; default: cache-limit in config.toml",
    )
    parser.add_argument(
        "--days",
        metavar="N",
        type=_days,
        default=_DAYS,
        help=f"prune files that were not used for N days; default: {_DAYS}",
    )
    parser.add_argument("--json", action="store_true", help="print the files that are there, or were removed, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """List, prune or clear the cache, and show how much is there or was removed. Raises MachineError, UsageError."""
    directory, console, now = cache_directory(), make_console(arguments), time.time()
    shown = printable(str(directory))
    if arguments.action == "ls":
        files = list_files(directory)
        _print(files, arguments.json, now)
        console.step(f"{size_text(total_size(files))} in {shown}")
        return 0
    if arguments.action == "clear":
        removed = prune(directory, 0)
    else:
        limit = Config.load().cache_limit if arguments.limit is None else arguments.limit
        removed = prune(directory, limit, now - arguments.days * 86400)
    if arguments.json:
        _print(removed, True, now)
    left = list_files(directory)
    console.step(f"removed {size_text(total_size(removed))} from {shown}; {size_text(total_size(left))} are left there")
    return 0


def _print(files: list[CachedFile], as_json: bool, now: float) -> None:
    if as_json:
        write_json([_json(entry) for entry in files])
    else:
        write_lines(_line(entry, now) for entry in files)


def _line(entry: CachedFile, now: float) -> str:
    kind = " (partial)" if entry.kind == "partial" else ""
    return f"{size_text(entry.size):>9}  {_ago(now - entry.used):>8}  {printable(entry.name)}{kind}"


def _json(entry: CachedFile) -> dict[str, Any]:
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used))
    return {"kind": entry.kind, "name": entry.name, "size": entry.size, "used": used}


def _ago(seconds: float) -> str:
    """Return how long ago that is, in one unit: `3 h ago`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now"


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is {error}") from None


def _days(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not a number of days")
    return int(text)
