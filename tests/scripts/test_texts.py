"""Completions and man pages: up to date, and as shells and man(1) read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.cli import COMMANDS, main
from provisioner.commands.completion import FILES
from scripts import texts
from tests.support.terminal import Terminal
from tests.support.tools import clean_environment, need, run

Output = pytest.CaptureFixture[str]
SHARE = texts.SHARE


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words the help differently in each version")
def test_they_are_made_of_the_help_as_it_is_today(capsys: Output) -> None:
    assert texts.main(["--check"]) == 0, capsys.readouterr().err


def complete_in_bash(line: str) -> list[str]:
    """Return what bash offers for a command line."""
    need("bash")
    script = f"""
        source {SHARE / FILES["bash"]}
        COMP_WORDS=({line}{"''" if line.endswith(" ") else ""}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _shtab_provision 2>&1
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run("bash", "--norc", "-c", script).split()


def complete_in_fish(line: str) -> list[str]:
    """Return what fish offers for a command line."""
    need("fish")
    environment = {**clean_environment(), "HOME": os.environ.get("TMPDIR", "/tmp"), "TERM": "dumb"}
    script = f"source {SHARE / FILES['fish']}; complete -C {line!r}"
    return [text.partition("\t")[0] for text in run("fish", "-N", "-c", script, env=environment).splitlines()]


def complete_in_zsh(line: str) -> list[str]:
    """Return what zsh shows at a terminal when Tab is pressed twice behind a command line."""
    need("zsh")
    session = Terminal(["zsh", "-f", "-i"], user=False)
    try:
        session.type(f"fpath=({SHARE} $fpath); autoload -U compinit; compinit -u -D\n".encode())
        session.type(b"LISTMAX=1000; PS1=READY'>'\n")
        session.until(b"READY>")
        session.type(f"{line}\t\t".encode())
        session.type(b"\x15echo END''OFIT\n")
        before = bytearray()
        while b"ENDOFIT" not in before:
            before += os.read(session.fd, 4096)
        session.type(b"exit\n")
    finally:
        session.end()
    return before.decode(errors="replace").split()


COMPLETE = {"bash": complete_in_bash, "fish": complete_in_fish, "zsh": complete_in_zsh}


@pytest.mark.parametrize("shell", COMPLETE)
def test_a_shell_completes_subcommands_and_options(shell: str) -> None:
    complete = COMPLETE[shell]
    assert "inspect" in " ".join(complete("provision insp"))
    found = complete("provision install --ru")
    assert "--runtime" in " ".join(found)
    if shell != "zsh":
        assert set(complete("provision install --runtime ")) >= {"auto", "proot", "chroot", "userns"}


@pytest.mark.parametrize("shell", COMPLETE)
def test_a_shell_completes_names_of_containers(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `provision list` says them, and whatever they are: no shell expands them."""
    program = tmp_path / "provision"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' /srv/webserver '/srv/we$(touch {tmp_path}/expanded)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for command in ("start", "stop", "remove", "diff"):
        assert "webserver" in " ".join(COMPLETE[shell](f"provision {command} we"))
    assert not (tmp_path / "expanded").exists()


@pytest.mark.parametrize("shell", FILES)
def test_the_command_prints_them(shell: str, capsys: Output) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == (SHARE / FILES[shell]).read_text()


@pytest.mark.parametrize("page", ["provision.1", "start.sh.1"])
def test_man_shows_the_pages_without_a_warning(page: str) -> None:
    need("man", "groff")
    done = subprocess.run(
        ["man", "--warnings", "--local-file", SHARE / page],
        env={**clean_environment(), "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    expected = COMMANDS if page == "provision.1" else ("--shell", "--ephemeral", "--exec")
    assert all(word in words for word in expected)


def test_every_option_of_start_sh_is_on_its_page() -> None:
    page = (SHARE / "start.sh.1").read_text().replace("\\-", "-")
    lines = texts.start_help().split("\n\n")[1].splitlines()
    options = {word for line in lines if line.startswith("--") for word in line.split()[:1]}
    assert options - {"--"}
    assert all(f".B {option}" in page for option in options - {"--"})


def test_words_divided_between_lines_are_joined() -> None:
    lines = ["--privileged    all devices and capa-", "                bilities: it can change"]
    assert list(texts._entries(lines)) == [("--privileged", "all devices and capabilities: it can change")]


def test_the_files_are_named_as_shells_look_for_them() -> None:
    assert {path.name for path in SHARE.iterdir() if path.suffix != ".pyc"} - {"__pycache__"} == {
        *FILES.values(),
        "provision.1",
        "start.sh.1",
    }
    assert Path(SHARE, "_provision").read_text().startswith("#compdef provision\n")


def test_no_option_in_a_usage_is_broken() -> None:
    need("man", "groff")
    environment = {**clean_environment(), "MANWIDTH": "60", "LC_ALL": "C.UTF-8"}
    shown = run("man", "--local-file", SHARE / "provision.1", env=environment)
    usage = shown.partition("COMMAND 'provision install'")[2].strip().partition("\n\n")[0]
    assert usage.startswith("provision install [-h] [--platform P]")
    assert usage.endswith("SOURCE [DIR]")
    for line in usage.splitlines():
        assert line.count("[") == line.count("]"), line
