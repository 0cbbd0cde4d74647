"""Backups by somebody else, whose digests are right: what they say must not run here, or touch anything outside."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.provisioned import provisioned
from tests.support.tools import as_user, own, provision
from tests.support.trees import tree_of

SCRIPTS: dict[str, Callable[[str, str], str]] = {
    "appended": lambda text, harm: text + f"\n{harm}\n",
    "replaced": lambda text, harm: f"#!/bin/sh\n# start.sh\n{harm}\n",
    "second line": lambda text, harm: text.replace("\n", f"\n{harm}\n", 1),
    "substitution": lambda text, harm: text.replace("default_hostname=''", f'default_hostname="$({harm})"'),
    "quote": lambda text, harm: text.replace("default_hostname=''", f"default_hostname=''; {harm}; x=''"),
}
LIES: dict[str, dict[str, str]] = {
    "id": {"id": "../../../canary"},
    "profile": {"profile": "../../canary"},
    "reference": {"reference": "\x1b]0;x\x07/../../canary"},
    "nothing": {},
}


def restored(place: Path, source: Path) -> tuple[int, Path]:
    """Back up a directory, whatever it has become, restore it, and return the exit status and the new directory."""
    provision("backup", source, place / "b.tar", **as_user(), status=0)
    done = provision("restore", place / "b.tar", place / "new", **as_user())
    assert "\x1b" not in done.stderr
    return done.returncode, place / "new"


@pytest.mark.parametrize("how", SCRIPTS)
def test_a_foreign_script_is_never_installed(place: Path, how: str) -> None:
    source, canary = provisioned(place / "source", **as_user()), place / "canary"
    script = source / "start.sh"
    text = script.read_text()
    hostile = SCRIPTS[how](text, f"touch {canary}")
    assert hostile != text
    script.write_text(hostile)
    status, new = restored(place, source)
    if status == 0:
        assert str(canary) not in (new / "start.sh").read_text()
        subprocess.run([new / "start.sh", "--print"], check=False, capture_output=True, **as_user())
    else:
        assert not new.exists()
    assert not canary.exists()


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_record_reaches_nothing_outside(place: Path, lie: str) -> None:
    source, outside = provisioned(place / "source", **as_user()), place / "outside"
    outside.mkdir()
    own(outside)
    record = source / ".provision/record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **LIES[lie]}))
    before = tree_of(outside)
    status, new = restored(place, source)
    assert tree_of(outside) == before
    assert not (place / "canary").exists()
    if status:
        assert not new.exists()
    else:
        assert json.loads((new / ".provision/record.json").read_text())["id"] != LIES[lie].get("id")
        assert (new / "start.sh").read_text() == (source / "start.sh").read_text()
