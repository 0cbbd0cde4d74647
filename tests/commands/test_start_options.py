"""Options of start.sh on the command lines of `run`, `start`, `shell` and `exec`: the same as start.sh has."""

from __future__ import annotations

import argparse
import re
import subprocess

import pytest

from provisioner.commands.parser import Parser
from provisioner.commands.start_options import (
    FLAGS,
    START_OPTIONS,
    TAKES_VALUE,
    add_start_arguments,
    check_start_words,
)
from provisioner.errors import UsageError
from provisioner.launch.script import options_reader
from tests.support.tools import CHECKOUT

FOR_ITSELF = {"--inside", "--restore-sigint", "--pdeathsig", "--helper", "--relayed", "--new-terminal", "--joined"}
"""What start.sh passes to itself."""
LATER = {"--help", "--verbose", "--trust-dir", "--list", "--stop", "--detached", "--exec", "--session", "--timeout"}
"""Options of start.sh that other subcommands stand for, or that all have."""


@pytest.mark.parametrize("option", sorted(START_OPTIONS))
def test_start_sh_has_the_option_and_its_value(option: str) -> None:
    done = subprocess.run(["sh", "-s", "--", option], input=options_reader(), capture_output=True, check=False)
    assert (b"needs a value" in done.stderr) == (option in TAKES_VALUE), done.stderr
    assert b"unknown option" not in done.stderr


def test_every_option_of_start_sh_is_known() -> None:
    text = (CHECKOUT / "scripts/start/options.sh").read_text() + (CHECKOUT / "scripts/start/docker.sh").read_text()
    known = set(re.findall(r"(?<![\w-])--[a-z0-9-]*[a-z0-9](?=[ \n]*(?:\||\)))", text))
    assert known - FOR_ITSELF - LATER - START_OPTIONS == {"--quiet", "--platform", "--pids"}


def test_words_are_passed_as_they_were_typed() -> None:
    parser = Parser()
    add_start_arguments(parser)
    parser.add_argument("source")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    typed = parser.parse(["-it", "-eA=1", "--user", "joe", "--rm", "--memory=1g", "image", "sh", "-it"])
    assert typed.start_words == ["-i", "-t", "-e", "A=1", "--user", "joe", "--rm", "--memory", "1g"]
    assert typed.words == ["sh", "-it"]
    assert parser.parse(["image"]).start_words == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--memory", "1g"], "docker's --memory is not supported: set limits outside"),
        (["--bind", "/none/at/all:/x"], "--bind: there is no /none/at/all"),
        (["--ids", "few"], "--ids can be one or many, not few"),
        (["--env-file", "/none"], "/none"),
    ],
)
def test_what_start_sh_refuses_is_refused_before(words: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        check_start_words(words)
    assert says in caught.value.message
    monkeypatch.chdir("/usr/bin")
    check_start_words(
        ["--here", "-i", "-t", "--rm", "--env", "A=1", "--volume", "/:/x:ro", "--name", "x", "--publish", "80:80"]
    )


def test_no_option_is_both() -> None:
    assert not set(FLAGS) & TAKES_VALUE
