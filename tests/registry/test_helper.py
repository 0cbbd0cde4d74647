"""Credential helpers: real programs on PATH, good and bad."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from provisioner.errors import NotAllowed
from provisioner.registry import helper
from tests.support.credential_helpers import KEEPER, MakeHelper
from tests.support.leftovers import processes_of_session
from tests.support.waiting import wait_until


def test_what_is_stored_can_be_had_until_it_is_erased(make_helper: MakeHelper, tmp_path: Path) -> None:
    make_helper(KEEPER)
    assert helper.fetch("test", "r.example") is None
    helper.store("test", "r.example", "me", 'pass "word"')
    given = json.loads((tmp_path / "kept/given").read_text())
    assert given == {"ServerURL": "r.example", "Username": "me", "Secret": 'pass "word"'}
    assert helper.fetch("test", "r.example") == ("me", 'pass "word"')
    assert helper.erase("test", "r.example")
    assert not helper.erase("test", "r.example")
    assert helper.fetch("test", "r.example") is None


def test_secrets_are_not_among_the_arguments(make_helper: MakeHelper, tmp_path: Path) -> None:
    make_helper('echo "$0 $*" >"$KEPT"; tr "\\0" " " <"/proc/$$/cmdline" >>"$KEPT"; env >>"$KEPT"; cat >/dev/null')
    helper.store("test", "r.example", "me", "hunter2")
    seen = (tmp_path / "kept").read_text()
    assert "docker-credential-test store" in seen
    assert "hunter2" not in seen


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo boom; exit 3", "fails at get: boom$"),
        ("exit 3", "fails at get: exit status 3$"),
        ('echo "the password hunter2 is wrong"; exit 1', "fails at get: exit status 1$"),
        ("printf '\\033[31mred\\n'; exit 1", r"fails at get: \\x1b\[31mred$"),
        ("echo hunter2", "doesn't answer as the protocol says"),
        ('echo \'{"Username": "hunter2"}\'', "doesn't answer as the protocol says"),
        ("echo '[]'", "doesn't answer as the protocol says"),
        ('echo \'{"Username": "me", "Secret": 5}\'', "gives no secret"),
        ('echo \'{"Username": "me", "Secret": ""}\'', "gives no secret"),
        ("", "doesn't answer as the protocol says"),
        ("kill -9 $$", "doesn't end"),
        ("exec yes hunter2", "doesn't end"),
        ("exec yes '['", "doesn't end"),
        ("i=0; while [ $i -lt 9999 ]; do printf '[[[[[[[[[[[['; i=$((i+1)); done", "as the protocol says"),
    ],
)
def test_helpers_that_fail_and_print_nonsense(make_helper: MakeHelper, script: str, why: str) -> None:
    make_helper(script)
    with pytest.raises(NotAllowed, match=why) as raised:
        helper.fetch("test", "r.example")
    assert "docker-credential-test" in raised.value.message
    assert "hunter2" not in raised.value.message
    assert raised.value.message.isprintable()
    assert raised.value.hint


@pytest.mark.parametrize("script", ["exec sleep 60", "sleep 60", "sleep 60 & echo '{}'"])
def test_a_helper_that_hangs_is_ended_with_all_that_it_started(
    make_helper: MakeHelper, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    make_helper(script)
    monkeypatch.setattr(helper, "HELPER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(NotAllowed):
        helper.fetch("test", "r.example")
    assert time.monotonic() - began < 50
    wait_until(lambda: not any("sleep 60" in process for process in processes_of_session()))


def test_a_helper_that_isnt_there_or_isnt_one(make_helper: MakeHelper) -> None:
    with pytest.raises(NotAllowed, match="docker-credential-test is not installed"):
        helper.fetch("test", "r.example")
    assert not helper.is_installed("test")
    make_helper("").write_bytes(b"\x7fELF nonsense")
    assert helper.is_installed("test")
    with pytest.raises(NotAllowed, match="fails at get: "):
        helper.fetch("test", "r.example")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-x", "a\nb", "\x1b[31m"])
def test_a_name_leads_to_no_other_program(name: str) -> None:
    with pytest.raises(NotAllowed, match="can't be the name") as raised:
        helper.fetch(name, "r.example")
    assert raised.value.message.isprintable()
