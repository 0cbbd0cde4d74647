"""What tests of `provision doctor` share: running it here, in a jail or without some programs, and reading its JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.jail import Jail
from tests.support.tools import provision


def doctor(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `provision doctor --offline WORDS`."""
    return provision("doctor", "--offline", *words, **options)


def doctor_in_jail(jail: Jail, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `provision doctor --json --offline` in a jail."""
    return jail.run(["python3", "-m", "provisioner", "doctor", "--json", "--offline"], **options)


def checks_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return the checks that `--json` has printed, by name."""
    assert done.stderr == ""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def states_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the states that `--json` has printed: ok, no or ?, by name."""
    return {name: check["state"] for name, check in checks_of(done).items()}


def write_script(path: Path, text: str) -> None:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def path_before(folder: Path, **variables: str) -> dict[str, str]:
    """Return an environment whose PATH starts with `folder`."""
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}


def path_without(tmp_path: Path, *names: str) -> dict[str, str]:
    """Return an environment whose PATH lacks these programs; it is made in `tmp_path`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for file in Path(folder).iterdir():
            if file.name not in names and not (programs / file.name).exists():
                (programs / file.name).symlink_to(file)
    return {**os.environ, "PATH": str(programs)}
