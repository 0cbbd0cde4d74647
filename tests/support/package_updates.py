"""What tests of updates with packages do in a container, and with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.containers import starter
from tests.support.tools import as_user, provision


def in_container(directory: Path, script: str) -> str:
    """Run a script as root of the container, and return what it prints."""
    words = [str(directory / "start.sh"), "--runtime", "proot", "--root", "--", "sh", "-euc", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **starter("proot"))
    assert done.returncode == 0, (done.stdout, done.stderr)
    return str(done.stdout)


def update(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return provision("update", directory, "--yes", "--no-keep", *words, **as_user())
