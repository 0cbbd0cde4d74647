"""Commands of provision that are killed at any step of theirs, in a forked process."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.fork_server import run_by_server
from tests.support.tools import CHECKOUT

_CHANGES = "chmod chown link mkdir remove rename rmdir setxattr symlink truncate utime"
STEPS = frozenset(["open", "fcntl.flock", "http.client.send", *(f"os.{change}" for change in _CHANGES.split())])
"""Audit events of Python (sys.addaudithook) that change the file system, open a part of it, or send to a server."""


def run_forked(words: list[str], *, killed_before: int | None = None, counter: Path | None = None) -> int:
    """Run `provision WORDS` in a forked process and return its exit status; negative for the signal that ended it.

    It is killed before its step of that number; without one, the number of its steps is written to `counter`.
    """
    command = [sys.executable, "-m", "provisioner", *words]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    steps = {"events": sorted(STEPS), "killed_before": killed_before, "counter": str(counter) if counter else None}
    done = run_by_server(command, {"env": env}, steps=steps)
    assert done is not None
    return done.returncode


def kill_at_random(
    count: int, prepare: Callable[[], list[str]], place: Path, *, seed: int = 0, status: int = 0
) -> Iterator[bool]:
    """Kill a command at `count` random steps of all that it has, after `prepare`, which returns its words.

    Yields after each kill, with whether the command was killed and not done before. A first run is let through.
    """
    counter = place / "steps"
    assert run_forked(prepare(), counter=counter) == status
    total = int(counter.read_text())
    chance = random.Random(seed)
    for number in range(count):
        # The first steps and the last ones are tried in any case.
        step = number + 1 if number < count // 10 else chance.randint(1, total)
        result = run_forked(prepare(), killed_before=step)
        assert result in (-signal.SIGKILL, status), result
        yield result == -signal.SIGKILL
