"""The options of `export` and `push` about the image that is made of a directory."""

from __future__ import annotations

import argparse
import os
import re

from provisioner.commands.output import add_insecure_argument
from provisioner.errors import UsageError
from provisioner.terminal.escaping import printable

EPOCH = "SOURCE_DATE_EPOCH"


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about the image, and about where its layers are fetched from."""
    parser.add_argument(
        "--squash", action="store_true", help="one layer with all files, in place of the image's layers and one more"
    )
    parser.add_argument(
        "--change",
        metavar="INSTRUCTION",
        action="append",
        default=[],
        help="change the config, as docker commit does: 'CMD [\"nginx\"]', 'ENV A=b', 'USER web'; repeatable",
    )
    parser.add_argument("--comment", metavar="TEXT", default="", help="a comment for the image's history")
    parser.add_argument(
        "--mirror",
        metavar="HOST",
        action="append",
        default=[],
        help="a mirror of the registry that layers are fetched from; repeatable",
    )
    add_insecure_argument(parser)
    parser.add_argument("--offline", action="store_true", help="take layers from the cache and files only")


def source_date_epoch() -> int | None:
    """Return the time of SOURCE_DATE_EPOCH, in seconds since 1970; None where it isn't set. Raises UsageError."""
    text = os.environ.get(EPOCH, "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,11}", text):
        raise UsageError(f"{EPOCH} is {printable(text)[:60]!r}", "it has to be seconds since 1970: $(date +%s)")
    return int(text)
