"""Commands that start a guest, for tests of what runs from a directory."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.tools import clean_environment

SCRIPT = "echo begun; cd /tmp; sleep 50 & sleep 60; true"
"""What a guest runs: a shell with two children."""


@contextmanager
def guest(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command that starts a guest, which writes the line `begun`; kill its process group at the end."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(
        [str(word) for word in command], **{**pipes, "env": clean_environment(), **options}
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            with suppress(ProcessLookupError):  # the test may have ended it
                os.killpg(process.pid, signal.SIGKILL)
