"""What a server has that is newer than a lock is said at the end of a run, which doesn't need to know it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from provisioner.commands import outdated_locks
from provisioner.commands.outdated_locks import report_moved_tag
from provisioner.errors import NetworkError
from provisioner.image.digest import Digest
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.terminal.progress import Console
from provisioner.threads import BackgroundThread

REFERENCE = Reference.parse("registry.example/x")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new")


@pytest.fixture(autouse=True)
def _a_busy_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outdated_locks, "_SECONDS", 60)


class Client:
    """A client of a registry whose tag has this digest; None where it doesn't answer."""

    def __init__(self, digest: Digest | None) -> None:
        self._digest = digest

    def resolve(self, selector: str) -> Descriptor:
        if self._digest is None:
            raise NetworkError("no answer", "try again")
        return Descriptor("application/json", self._digest, 1)


def messages_of(digest: Digest | None, capsys: pytest.CaptureFixture[str]) -> str:
    lock = Lock(str(REFERENCE), datetime(2026, 1, 2, tzinfo=UTC), {}, index=OLD)
    with report_moved_tag(lock, cast(Any, Client(digest)), REFERENCE, Console()) as start:
        start()
    return capsys.readouterr().err


def test_a_tag_that_has_moved_is_named_with_both_digests(capsys: pytest.CaptureFixture[str]) -> None:
    said = messages_of(NEW, capsys)
    assert "registry.example/x:latest has moved since 2026-01-02" in said
    assert f"it is {NEW!s:.19} now, and locked at {OLD!s:.19}" in said


@pytest.mark.parametrize("digest", [OLD, None])
def test_nothing_is_said_of_a_tag_that_is_the_same_or_unknown(
    digest: Digest | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert messages_of(digest, capsys) == ""


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_the_run_goes_on_where_no_thread_can_be_started(
    error: type[Exception], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: BackgroundThread) -> None:
        raise error

    monkeypatch.setattr(BackgroundThread, "start", refuse)
    assert messages_of(NEW, capsys) == ""
