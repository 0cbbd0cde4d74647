"""What probes return, made safe to print."""

from __future__ import annotations

from pathlib import Path

from provisioner.doctor.check import Check, Finding, State
from provisioner.doctor.diagnosis import Diagnosis


def test_texts_of_programs_are_made_fit_to_be_shown() -> None:
    check = Check.of("name", Finding(State.NO, "a\x1b[2J\n  b" + "c" * 1000, "\x07"))
    assert check.detail.startswith(r"a\x1b[2J bcc")
    assert len(check.detail) == 600
    assert check.fix == r"\x07"
    assert Diagnosis(Path("/"), (check,)).problems == ()
