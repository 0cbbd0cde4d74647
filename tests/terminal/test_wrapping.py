"""Messages on narrow terminals: broken between words, commands whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import width_of
from provisioner.terminal.wrapping import fill, style_commands
from tests.support.terminal import on_terminal
from tests.support.tools import open_terminal


def test_a_line_is_broken_between_words_and_goes_on_indented() -> None:
    text = "provision 127.0.0.1:50000/hello:latest for linux/amd64"
    assert fill(text, 40) == "provision 127.0.0.1:50000/hello:latest\n  for linux/amd64"
    assert fill(text, len(text)) == fill(text, None) == text
    assert fill("  start:   './a b/start.sh'", 10) == "  start:   './a b/start.sh'"


@given(st.text(), st.integers(20, 100))
def test_nothing_is_lost_and_no_line_is_too_long(text: str, width: int) -> None:
    text = printable(text.lstrip(" "))
    lines = fill(text, width).split("\n")
    assert " ".join([lines[0], *(line.removeprefix("  ") for line in lines[1:])]) == text
    assert all(width_of(line) <= width or " " not in line.removeprefix("  ") for line in lines)


def test_a_command_in_a_hint_stays_whole_to_be_copied() -> None:
    hint = "did you mean: provision list --json --quiet; or ./web/start.sh --shell, or another thing"
    text = style_commands(hint, lambda command: f"\033[1m{command}\033[0m")
    assert fill(text, 30).split("\n") == [
        "did you mean:",
        "  \033[1mprovision list --json --quiet\033[0m;",
        "  or \033[1m./web/start.sh --shell\033[0m,",
        "  or another thing",
    ]


def test_the_console_fits_a_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = open_terminal()
    monkeypatch.setenv("COLUMNS", "40")
    with open(follower, "w", encoding="utf-8") as stream:
        console = Console(stream=stream, colour="never")
        console.step("the owners of the image can't be set here: all files get the same owner")
        console.warn("--bind /nothing:/data: /nothing isn't there; starts go on without it")
        console.error("there is no subcommand lst", "did you mean: provision list; an image: provision install lst")
    shown = bytearray()
    with suppress(OSError):  # the other end is closed
        while data := os.read(leader, 4096):
            shown += data
    os.close(leader)
    assert shown.decode().replace("\r\n", "\n") == (
        "the owners of the image can't be set\n  here: all files get the same owner\n"
        "provision: --bind /nothing:/data:\n  /nothing isn't there; starts go on\n  without it\n"
        "provision: there is no subcommand lst\n"
        "  did you mean: provision list; an\n  image: provision install lst\n"
    )


def test_the_overview_fits_a_phone(tmp_path: Path) -> None:
    status, shown = on_terminal("--help", columns=40, cache=tmp_path)
    lines = shown.split("\n")
    assert status == 0
    example = "    provision ubuntu ./container && ./container/start.sh"
    assert max(len(line) for line in lines if line != example) <= 40
    assert "  list        List the directories made" in lines
    assert "              on this machine, and what" in lines
