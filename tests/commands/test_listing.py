"""`provision list`: on terminals, in pipes, as JSON; gone, damaged, running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.container.directories import Directories, KnownDirectory
from tests.support import builders, terminal
from tests.support.guests import SCRIPT, guest
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, find_program, need, open_terminal, provision, provision_command
from tests.support.waiting import wait_until


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(XDG_STATE_HOME=str(tmp_path / "state"), TZ="UTC")


@pytest.fixture
def known(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "state/provision")


@pytest.fixture
def directory(tmp_path: Path, env: dict[str, str]) -> Iterator[Path]:
    """A provisioned directory, known to the list."""
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small())
        provision(f"{registry.host}/image", tmp_path / "dir", "--platform=amd64", env=env, status=0)
        os.utime(tmp_path / "dir/.provision/record.json", (0, 0))
        yield tmp_path / "dir"


def listed(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    done = provision("list", *words, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def as_json(env: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(listed(env, "--json").stdout)["directories"]
    return rows


def on_terminal(env: dict[str, str], columns: int, tmp_path: Path) -> list[str]:
    command, _ = provision_command("list", cache=tmp_path, env=env)
    python_path = {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent),
        "COLUMNS": str(columns),
        "NO_COLOR": "1",
    }
    ours, theirs = open_terminal()
    with subprocess.Popen(command, env={**env, **python_path}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 1 << 16):
                shown += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return shown.decode().splitlines()


def test_nothing_was_provisioned(env: dict[str, str], tmp_path: Path) -> None:
    assert listed(env).stdout == ""
    assert as_json(env) == []
    assert on_terminal(env, 80, tmp_path) == []


def test_all_that_is_known(directory: Path, env: dict[str, str]) -> None:
    record = json.loads((directory / ".provision/record.json").read_text())
    assert as_json(env) == [
        {
            "directory": str(directory),
            "reference": record["reference"],
            "platform": "linux/amd64",
            "download_size": sum(layer["size"] for layer in record["layers"]),
            "provisioned": "1970-01-01T00:00:00Z",
            "id": record["id"],
            "moved_from": None,
            "copy_of": None,
            "left": None,
            "is_gone": False,
            "is_trusted": True,
            "is_outdated": False,
            "processes": [],
            "sessions": [],
        }
    ]


def test_in_a_pipe_one_directory_a_line(directory: Path, env: dict[str, str], known: Directories) -> None:
    evil = directory.rename(directory.parent / "a\x1b[2J\nb")
    known.add(KnownDirectory(str(evil), "image"))
    assert listed(env).stdout == f"{evil.parent}/a\\x1b[2J\\nb\n"


def test_tables_fit_terminals_and_phones(directory: Path, env: dict[str, str], tmp_path: Path) -> None:
    wide = on_terminal(env, 200, tmp_path)
    assert wide[0].split() == ["DIRECTORY", "IMAGE", "PLATFORM", "DOWNLOAD", "PROVISIONED", "STATE"]
    assert re.search(r"linux/amd64 +\d+ B +1970-01-01 00:00 +idle$", wide[1])
    narrow = on_terminal(env, 40, tmp_path)
    assert max(map(len, narrow)) <= 40
    assert "idle" in "".join(narrow)


def test_a_gone_directory_is_shown_once(
    directory: Path, env: dict[str, str], known: Directories, tmp_path: Path
) -> None:
    shutil.rmtree(directory)
    (row,) = known.entries()
    lines = on_terminal(env, 200, tmp_path)
    assert lines[1].endswith("gone")
    assert row.reference in lines[1]
    assert known.entries() == []
    known.add(row)
    assert as_json(env)[0]["is_gone"] is True
    known.add(row)
    assert listed(env).stdout == ""
    assert known.entries() == []


def test_a_moved_directory_is_found_by_its_id(directory: Path, env: dict[str, str], known: Directories) -> None:
    (before,) = as_json(env)
    moved = directory.rename(directory.with_name("elsewhere"))
    (row,) = as_json(env)
    assert (row["directory"], row["moved_from"], row["copy_of"]) == (str(moved), str(directory), None)
    assert (row["id"], row["is_gone"]) == (before["id"], False)
    assert [entry.directory for entry in known.entries()] == [str(moved)]
    (row,) = as_json(env)
    assert row["moved_from"] is None


def test_a_moved_directory_is_found_in_the_current_one(directory: Path, env: dict[str, str], tmp_path: Path) -> None:
    there = tmp_path / "some/where"
    there.mkdir(parents=True)
    directory.rename(there / "x")
    rows = json.loads(provision("list", "--json", env=env, cwd=there).stdout)["directories"]
    assert [(row["directory"], row["moved_from"]) for row in rows] == [(f"{there}/x", str(directory))]


def test_a_copy_that_was_removed_is_gone(directory: Path, env: dict[str, str]) -> None:
    copy = directory.with_name("another")
    shutil.copytree(directory, copy, symlinks=True)
    assert len(as_json(env)) == 2
    shutil.rmtree(copy)
    rows = [(row["directory"], row["is_gone"], row["moved_from"]) for row in as_json(env)]
    assert rows == [(str(directory), False, None), (str(copy), True, None)]
    assert len(as_json(env)) == 1


def test_copies_are_named(directory: Path, env: dict[str, str], known: Directories, tmp_path: Path) -> None:
    shutil.copytree(directory, directory.with_name("another"), symlinks=True)
    shutil.copytree(directory, tmp_path / ".dir.provision", symlinks=True)  # as if a run were at work
    shutil.copytree(directory, tmp_path / "unrelated", symlinks=True)
    record = tmp_path / "unrelated/.provision/record.json"
    record.write_text(record.read_text().replace(known.entries()[0].id, "0" * 32))
    for _ in range(2):
        rows = {row["directory"]: row["copy_of"] for row in as_json(env)}
        assert rows == {str(directory): None, f"{tmp_path}/another": str(directory)}
    wide = on_terminal(env, 250, tmp_path)
    assert any(f"copy of {directory}" in line for line in wide)
    narrow = on_terminal(env, wide[0].index("NOTE") - 2, tmp_path)
    assert [line.split() for line in narrow if not line.startswith("  ")] == [
        line[: wide[0].index("NOTE")].split() for line in wide
    ]
    assert "copyof" + str(directory) == "".join("".join(line.split()) for line in narrow if line.startswith("  "))
    shutil.rmtree(tmp_path / ".dir.provision")
    (tmp_path / "gone").mkdir()
    directory.rename(tmp_path / "gone/dir")
    rows = {row["directory"]: row["is_gone"] for row in as_json(env)}
    assert rows == {str(directory): True, f"{tmp_path}/another": False}


def test_older_lists_get_ids(directory: Path, env: dict[str, str], known: Directories) -> None:
    (entry,) = known.entries()
    known.add(KnownDirectory(entry.directory, entry.reference))
    as_json(env)
    assert known.entries() == [replace(entry, content="")]


def test_colours_on_terminals_alone(env: dict[str, str], known: Directories, tmp_path: Path) -> None:
    """NO_COLOR and a dumb terminal have none, and --color overrules both."""

    def shown(*words: str, **variables: str) -> str:
        known.add(KnownDirectory(f"{tmp_path}/none", "image"))
        return terminal.on_terminal("list", *words, columns=80, cache=tmp_path, **{**env, **variables})[1]

    yellow = "\x1b[33mgone\x1b[0m"
    assert yellow in shown()
    for text in (shown("--color=never"), shown(NO_COLOR="1"), shown(TERM="dumb")):
        assert "gone" in text
        assert "\x1b" not in text
    assert yellow in shown("--color=always", NO_COLOR="1")
    done = provision("list", "--color=sometimes", env=env, status=2)
    assert done.stderr.startswith("provision: --color 'sometimes' is none of auto, always, never\n")


def test_an_unreadable_directory_is_not_forgotten(directory: Path, env: dict[str, str], known: Directories) -> None:
    (directory / ".provision/record.json").write_text("{")
    (row,) = as_json(env)
    assert (row["is_gone"], row["platform"]) == (False, None)
    assert len(known.entries()) == 1


def test_what_runs_is_shown(directory: Path, env: dict[str, str], tmp_path: Path) -> None:
    need("proot", "busybox")
    shell = directory / "rootfs/bin/sh"
    shell.unlink()
    shutil.copy(find_program("busybox") or "", shell)
    shell.with_name("sleep").symlink_to("sh")
    with guest("proot", "-r", directory / "rootfs", "-w", "/", "/bin/sh", "-c", SCRIPT) as process:
        (row,) = as_json(env)
        assert process.pid in row["processes"]
        assert on_terminal(env, 200, tmp_path)[1].endswith(" running")
        os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: as_json(env)[0]["processes"] == [])  # those of proot end by themselves, one after the other


def test_a_list_that_cannot_be_read(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "state/provision/directories").mkdir(parents=True)
    done = provision("list", env=env, status=7)
    assert done.stderr.startswith("provision: read the list of directories: Is a directory\n")
