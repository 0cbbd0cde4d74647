"""`provision cache`: lists, prunes or clears the cache of downloads."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

from provisioner.commands.output import make_console, screen_of, write_json, write_lines
from provisioner.config import Config
from provisioner.filesystem.times import utc_time
from provisioner.sizes import parse_size, size_text
from provisioner.store.cached_images import CacheContents, CachedImage, group_files
from provisioner.store.prune import CachedFile, cache_directory, list_files, prune, total_size
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Column, table

HELP = "Show the cache of downloads, or clean it up"
EXAMPLE = "provision cache ls|prune|clear"

_DAYS = 30
_COLUMNS = (
    Column("IMAGE", flexible=True),
    Column("SIZE", right=True),
    Column("LAST USED", "used {}"),
    Column(""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all three actions."""
    parser.add_argument(
        "action",
        choices=("ls", "prune", "clear"),
        nargs="?",
        default="ls",
        help="ls: list images; prune: remove old files and those above the limit; clear: remove all that no run uses",
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
        contents = group_files(directory, files)
        if arguments.json:
            write_json(_json(contents, files))
        else:
            write_lines(table(_COLUMNS, list(_rows(contents, now)), screen_of(arguments)))
        console.step(f"{size_text(total_size(files))} in {shown}")
        return 0
    contents = group_files(directory, list_files(directory) if arguments.json else [])
    if arguments.action == "clear":
        removed = prune(directory, 0)
    else:
        limit = Config.load().cache_limit if arguments.limit is None else arguments.limit
        removed = prune(directory, limit, now - arguments.days * 86400)
    if arguments.json:
        write_json(_json(contents, removed))
    left = list_files(directory)
    console.step(f"removed {size_text(total_size(removed))} from {shown}; {size_text(total_size(left))} are left there")
    return 0


def _rows(contents: CacheContents, now: float) -> Iterator[tuple[str, str, str, str]]:
    """Return a row for each image, for each partial download below it, and one for all other files."""
    for image in contents.images:
        if shared := contents.shared_size(image):
            note = f"{size_text(shared)} shared"
        else:
            note = "" if image.name else "no tag"
        yield image.shown_name, size_text(image.size), _ago(now - image.used), note
        yield from (_partial_row(contents, image, file, now) for file in image.files if file.kind == "partial")
    if contents.others:
        used = max(file.used for file in contents.others)
        count = len(contents.others)
        name = f"{count} other file{'s' if count > 1 else ''}"
        yield name, size_text(total_size(contents.others)), _ago(now - used), "of no image that is known here"


def _partial_row(
    contents: CacheContents, image: CachedImage, file: CachedFile, now: float
) -> tuple[str, str, str, str]:
    part = contents.partial[file.path]
    whole = f" of {size_text(part.size)}" if part.size is not None else ""
    return f"- {part.what or 'the file'}", size_text(file.size), _ago(now - file.used), f"partial{whole}"


def _json(contents: CacheContents, files: Sequence[CachedFile]) -> dict[str, Any]:
    """Return `files`, and the images that they belong to, as `--json` prints them."""
    paths = {file.path for file in files}
    return {
        "images": [
            {
                "name": image.name or None,
                "digest": image.digest or None,
                "size": image.size,
                "shared_size": contents.shared_size(image),
                "used": utc_time(image.used),
            }
            for image in contents.images
            if any(file.path in paths for file in image.files)
        ],
        "files": [_file_json(contents, file) for file in files],
    }


def _file_json(contents: CacheContents, file: CachedFile) -> dict[str, Any]:
    part = contents.partial.get(file.path)
    return {
        "kind": file.kind,
        "name": file.name,
        "size": file.size,
        "used": utc_time(file.used),
        "images": list(contents.owners.get(file.path, ())),
        "part": (part and part.what) or None,
        "whole_size": part and part.size,
    }


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
