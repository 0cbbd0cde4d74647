"""The options about the source of an image: registries and their mirrors, the platform, the cache, locks, files."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.catalogue import is_short
from provisioner.commands.output import add_insecure_argument
from provisioner.config import Config
from provisioner.errors import UsageError
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform, host_platform
from provisioner.terminal.escaping import printable


def add_registry_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about registries and the platform."""
    parser.add_argument("--platform", metavar="P", help="linux/arm64, linux/arm/v7, …; default: this machine's")
    parser.add_argument(
        "--mirror",
        metavar="HOST",
        action="append",
        default=[],
        help="a mirror of the image's registry, asked first; repeatable",
    )
    add_insecure_argument(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about the cache and locks."""
    add_file_arguments(parser)
    parser.add_argument("--no-cache", action="store_true", help="neither use the cache nor write to it")
    parser.add_argument(
        "--no-catalogue", action="store_true", help="don't look elsewhere for a short name that Docker Hub lacks"
    )
    parser.add_argument("--lock", metavar="FILE", help="write the digests that the image has now to FILE")
    parser.add_argument("--locked", metavar="FILE", help="provision exactly the image whose digests are in FILE")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about files, those of the cache and that which SOURCE names."""
    parser.add_argument("--offline", action="store_true", help="use the cache and files only; make no connection")
    parser.add_argument("--sha256", metavar="HEX", help="what the file that SOURCE names must be")


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source, whatever its name."""

    config: Config = field(default_factory=Config)
    insecure: bool = False
    """Whether plain HTTP and certificates that can't be verified are allowed."""
    mirrors: tuple[str, ...] = ()
    """Mirrors of the image's registry, asked before those of the environment and the configuration."""
    jobs: int = 4
    """Downloads at a time."""
    offline: bool = False
    """Whether no connection is made."""
    scratch: Path | None = None
    """A directory to use in place of the cache, whose content is deleted by whoever names it."""
    locked: Path | None = None
    """A lock file that names the image's digests."""
    short_name: str = ""
    """The name as the user wrote it, where the catalogue may have another source for it; else empty."""
    sha256: Digest | None = None
    """What the file that the source is in must have."""

    @classmethod
    def of(cls, arguments: argparse.Namespace, config: Config) -> SourceOptions:
        """Return the options of a command line, without `scratch`. Raises UsageError for those that contradict."""
        _check_options(arguments)
        locked = getattr(arguments, "locked", None)
        text = getattr(arguments, "source", "")
        return cls(
            config,
            arguments.insecure,
            tuple(arguments.mirror),
            getattr(arguments, "jobs", None) or config.jobs,
            getattr(arguments, "offline", False),
            locked=Path(locked) if locked else None,
            short_name=text if is_short(text) and not getattr(arguments, "no_catalogue", True) else "",
            sha256=_sha256(getattr(arguments, "sha256", None)),
        )


def usual_platform(arguments: argparse.Namespace, config: Config) -> Platform:
    """Return the platform by the options, else the configuration's, else this machine's.

    Raises UsageError, MachineError.
    """
    return Platform.parse(arguments.platform) if arguments.platform else config.platform or host_platform()


def platform_reason(arguments: argparse.Namespace, config: Config) -> str:
    """Return why `usual_platform` returns what it does."""
    return "by --platform" if arguments.platform else "by config.toml" if config.platform else "this machine's"


def _sha256(text: str | None) -> Digest | None:
    """Return the digest of --sha256. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:sha256:)?([0-9a-fA-F]{64})", text.strip())
    if not match:
        hint = "give its 64 hexadecimal digits, as sha256sum prints them"
        raise UsageError(f"--sha256 {printable(text[:100])!r} is no SHA-256", hint)
    return Digest("sha256", match[1].lower())


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other or lack a value; a command may lack some of them."""
    if empty := next((name for name in ("lock", "locked") if getattr(arguments, name, None) == ""), ""):
        raise UsageError(f"--{empty} needs the name of a file", f"give a name: --{empty} FILE")
    for one, other in (("offline", "no_cache"), ("lock", "locked")):
        if getattr(arguments, one, None) and getattr(arguments, other, None):
            names = f"--{one} and --{other.replace('_', '-')}"
            raise UsageError(f"{names} contradict each other", "leave out one of them")
