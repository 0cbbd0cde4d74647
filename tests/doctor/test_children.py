"""Actions and programs in child processes: results, failures, time limits."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from provisioner.doctor import children
from provisioner.doctor.children import Reply, attempt, in_children, run_program
from tests.support.processes import words_of
from tests.support.waiting import wait_until


def _forbidden() -> None:
    signal.raise_signal(signal.SIGSYS)


def test_replies_of_children() -> None:
    def refused() -> None:
        raise PermissionError(13, "no")

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    actions: list[Callable[[], object]] = [
        lambda: "value",
        refused,
        broken,
        partial(os.kill, 0, signal.SIGKILL),
        _forbidden,
        partial(print, "not ours"),
    ]
    replies = in_children(actions, seconds=60)
    assert replies == [
        Reply("value"),
        Reply(errno=13),
        Reply(failure="ZeroDivisionError: a bug"),
        Reply(signal=signal.SIGKILL),
        Reply(signal=signal.SIGSYS),
        Reply(),
    ]
    assert [reply.reason for reply in replies[1:4]] == [
        "Permission denied",
        "ZeroDivisionError: a bug",
        "the kernel ends the process that tries it (SIGKILL)",
    ]


def test_all_together_end_in_time() -> None:
    started = time.monotonic()
    replies = in_children([partial(time.sleep, 60)] * 40, seconds=0.2)
    assert time.monotonic() - started < 30
    assert replies[0].failure == "no answer in 0.2 seconds"
    assert replies[-1].failure == "there was no time left for it"


def test_an_answer_counts_also_where_it_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is busy, or was asleep."""
    now = [0.0]

    class Late(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            while len(ready := super().select(60)) < 2:  # both have begun to answer
                pass
            now[0] = 100.0
            return ready

    monkeypatch.setattr(children, "selectors", SimpleNamespace(DefaultSelector=Late, EVENT_READ=selectors.EVENT_READ))
    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert in_children([lambda: "value", lambda: "x" * 500_000], seconds=6) == [
        Reply("value"),
        Reply(failure="no answer in 6 seconds"),
    ]


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    def start() -> None:
        subprocess.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"], check=False)

    number = ""
    for seconds in (0.5, 5, 50):  # until it is long enough for the program to start
        in_children([start], seconds)
        if number := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else "":
            break
    pid = int(number)
    wait_until(lambda: not words_of(pid))


def test_programs_and_their_statuses() -> None:
    assert run_program("/bin/sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\nerr")
    assert run_program("/bin/sh", "-c", "kill -TERM $$") == (-signal.SIGTERM, "")
    assert attempt(lambda: None).worked
