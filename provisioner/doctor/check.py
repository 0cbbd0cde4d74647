"""What a probe finds out: whether something works, what that means for provision, and the mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from provisioner.terminal.escaping import printable


class State(StrEnum):
    """Whether something works here. The texts are marks that need no colour."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "?"


@dataclass(frozen=True)
class Finding:
    """What one probe found: `detail` says what it means for provision; `mend`, what to do, may be empty."""

    state: State
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """A finding by its name. Without one that is `essential`, the main job can't work here."""

    name: str
    state: State
    detail: str
    mend: str = ""
    essential: bool = False

    @classmethod
    def of(cls, name: str, finding: Finding, essential: bool = False) -> Check:
        """The check of this name; texts that came from programs or the file system are made fit to be shown."""
        detail, mend = (printable(" ".join(text.split()))[:600] for text in (finding.detail, finding.mend))
        return cls(name, finding.state, detail, mend, essential)


@dataclass(frozen=True)
class Site:
    """Where probes look: the directory in question, and an empty one in its file system, or `why` there is none."""

    directory: Path
    scratch: Path | None
    why: str = ""


def ok(detail: str, mend: str = "") -> Finding:
    """It works."""
    return Finding(State.OK, detail, mend)


def no(detail: str, mend: str = "") -> Finding:
    """It doesn't."""
    return Finding(State.NO, detail, mend)


def unknown(detail: str, mend: str = "") -> Finding:
    """It can't be told."""
    return Finding(State.UNKNOWN, detail, mend)
