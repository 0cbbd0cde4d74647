"""One exit status for one fault, whichever command meets it: nothing at DIR or FILE is 3, a foreign DIR is 8."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from provisioner.cli import GROUPS, Commands, main

Output = pytest.CaptureFixture[str]

WITH_DIR: dict[str, tuple[str, ...]] = {
    "owners": ("DIR",),
    "start": ("DIR", "true"),
    "shell": ("DIR",),
    "exec": ("DIR", "true"),
    "stop": ("DIR",),
    "logs": ("DIR",),
    "config": ("DIR",),
    "link": ("DIR",),
    "expose": ("DIR", "sh"),
    "diff": ("DIR",),
    "update": ("--offline", "DIR"),
    "backup": ("DIR", "NEW"),
    "export": ("DIR", "NEW"),
    "push": ("DIR", "127.0.0.1:1/x/y"),
    "copy": ("DIR", "NEW"),
    "move": ("DIR", "NEW"),
    "repair": ("--check", "DIR"),
    "remove": ("--yes", "DIR"),
    "inspect": ("DIR",),
}
"""The commands that take a container, which isn't made by them, by its directory."""
GO_BY_SCRIPT = {"start", "shell", "exec", "stop", "logs", "link", "expose"}
"""Those that need no record."""
WITH_FILE: dict[str, tuple[str, ...]] = {
    "restore": ("FILE", "NEW"),
    "install": ("FILE", "NEW"),
    "docker-archive": ("install", "docker-archive:FILE", "NEW"),
    "rootfs": ("install", "rootfs:FILE", "NEW"),
    "inspect": ("docker-archive:FILE",),
    "push": ("FILE", "127.0.0.1:1/x/y"),
}


def words_of(name: str, words: tuple[str, ...], place: Path, operand: Path) -> list[str]:
    names = {"DIR": str(operand), "FILE": str(operand), "NEW": str(place / "new")}
    command = [] if words[0] == "install" else [name]
    return command + [
        names.get(word, word.replace(":FILE", f":{operand}") if word.endswith(":FILE") else word) for word in words
    ]


def refused(words: list[str], status: int, message: str, output: Output) -> None:
    assert main(words) == status, words
    error = output.readouterr().err
    assert message in error, words
    first, hint = error.splitlines()[-2:]
    assert first.startswith("provision: "), error
    assert hint.startswith("  "), error


def test_the_tables_have_every_command() -> None:
    takes = set()
    for name, command in Commands().items():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        operands = [str(action.metavar) for action in parser._actions if not action.option_strings]
        if any("DIR" in operand.split("|") or "IMAGE|DIR" in operand for operand in operands):
            takes.add(name)
    made = {"doctor", "install", "restore", "run"}
    assert takes - made <= WITH_DIR.keys(), takes - made - WITH_DIR.keys()
    assert WITH_DIR.keys() <= {name for group in GROUPS.values() for name in group}


@pytest.mark.parametrize("name", WITH_DIR)
def test_nothing_at_dir(tmp_path: Path, name: str, capsys: Output) -> None:
    for operand in (tmp_path / "none", tmp_path / "no" / "parent", tmp_path / "dangling"):
        if operand.name == "dangling":
            operand.symlink_to(tmp_path / "gone")
            if name in ("remove", "move"):  # which are about the symlink itself
                continue
        refused(words_of(name, WITH_DIR[name], tmp_path, operand), 3, "there is no directory", capsys)


@pytest.mark.parametrize("name", WITH_DIR)
def test_a_foreign_dir(tmp_path: Path, name: str, capsys: Output) -> None:
    foreign, file = tmp_path / "foreign", tmp_path / "file"
    (foreign / "rootfs").mkdir(parents=True)
    (foreign / "start.sh").write_text("#!/bin/sh\n")
    refused(words_of(name, WITH_DIR[name], tmp_path, foreign), 8, "was not made by provision", capsys)
    assert sorted(path.name for path in foreign.iterdir()) == ["rootfs", "start.sh"]
    if name not in ("push", "inspect"):  # which take files, too
        file.touch()
        refused(words_of(name, WITH_DIR[name], tmp_path, file), 8, str(file), capsys)


@pytest.mark.parametrize("name", sorted(WITH_DIR.keys() - {"inspect"}))
def test_an_empty_name(tmp_path: Path, name: str, capsys: Output) -> None:
    words = [word if word != str(tmp_path) else "" for word in words_of(name, WITH_DIR[name], tmp_path, tmp_path)]
    refused(words, 2, "NAME|DIR is empty", capsys)


@pytest.mark.parametrize("name", sorted(WITH_DIR.keys() - GO_BY_SCRIPT))
def test_a_dir_without_its_record(tmp_path: Path, name: str, capsys: Output) -> None:
    """It is no container that nobody has made: other files of provision's are there."""
    directory = tmp_path / "dir"
    (directory / ".provision").mkdir(parents=True)
    message = "is incomplete: its record is missing, so nobody knows what it was made from"
    refused(words_of(name, WITH_DIR[name], tmp_path, directory), 8, message, capsys)


@pytest.mark.parametrize("name", WITH_FILE)
def test_nothing_at_file(tmp_path: Path, name: str, capsys: Output) -> None:
    for operand in (tmp_path / "none.tar", tmp_path / "no" / "parent.tar"):
        refused(words_of(name, WITH_FILE[name], tmp_path, operand), 3, "there is no ", capsys)
        assert not (tmp_path / "new").exists()


def test_a_directory_in_place_of_a_file(tmp_path: Path, capsys: Output) -> None:
    refused(["restore", str(tmp_path), str(tmp_path / "new")], 2, "is a directory", capsys)
