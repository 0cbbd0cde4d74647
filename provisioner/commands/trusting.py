"""The option, the variable and the setting by which a user lifts the rule that nobody else may write to DIR."""

from __future__ import annotations

import argparse
import os

from provisioner.config import Config
from provisioner.filesystem.trust import ALL, TrustedDirectories


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-dir`, for commands that take a DIR."""
    parser.add_argument(
        "--trust-dir",
        action="store_true",
        help="take DIR as it is, although others own it, or the way to it, or may write there",
    )


def trusted_directories(arguments: argparse.Namespace, config: Config | None = None) -> TrustedDirectories:
    """Return the directories that the user trusts by the option, PROVISION_TRUST_DIR and config.toml.

    Raises UsageError for a wrong config.toml.
    """
    if getattr(arguments, "trust_dir", False):
        return ALL
    named = os.environ.get("PROVISION_TRUST_DIR", "").split(":")
    return TrustedDirectories((*filter(None, named), *(config or Config.load()).trust_dir))
