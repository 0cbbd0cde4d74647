"""The result of a probe: whether something works, what that means for provision, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.terminal.escaping import printable


class State(StrEnum):
    """Whether something works on this machine. The values are printed."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "?"


@dataclass(frozen=True)
class Finding:
    """The result of one probe."""

    state: State
    detail: str
    """The result in words, with its effect on provision."""
    fix: str = ""
    """The command to type, or another instruction; may be empty."""


@dataclass(frozen=True)
class Check:
    """A finding with the name of its probe. Its texts are escaped for terminals."""

    name: str
    state: State
    detail: str
    fix: str = ""
    essential: bool = False
    """Whether the main job can't work without it."""
    is_harmless: bool = False
    """Whether it failed, but this user doesn't need what it checks."""

    @classmethod
    def of(cls, name: str, finding: Finding, essential: bool = False) -> Check:
        """Return the check of a finding, whose texts from programs and the file system are escaped and shortened."""
        detail, fix = (printable(" ".join(text.split()))[:600] for text in (finding.detail, finding.fix))
        return cls(name, finding.state, detail, fix, essential)


@dataclass(frozen=True)
class Site:
    """The directories that probes examine and write to."""

    directory: Path
    """The directory in question, or the nearest one above it that exists."""
    scratch: Path | None
    """An empty directory in it that probes may write to."""
    scratch_error: str = ""
    """Why there is no scratch directory."""
    trust: TrustedDirectories = NOBODY
    """The directories that the user trusts although others may write to them."""


def ok(detail: str, fix: str = "") -> Finding:
    """Return the finding that something works."""
    return Finding(State.OK, detail, fix)


def no(detail: str, fix: str = "") -> Finding:
    """Return the finding that something doesn't work."""
    return Finding(State.NO, detail, fix)


def unknown(detail: str, fix: str = "") -> Finding:
    """Return the finding that the probe has no result."""
    return Finding(State.UNKNOWN, detail, fix)
