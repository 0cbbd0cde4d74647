"""The list of what was provisioned: together, damaged, hostile, full; and the main job that writes it."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.container.directories import Directories, KnownDirectory, state_directory
from provisioner.ownership.record import content_of
from tests.support import builders
from tests.support.disks import tmpfs
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, provision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state/provision"


def entry(name: str, reference: str = "image") -> KnownDirectory:
    return KnownDirectory(f"/{name}", reference)


def test_nothing_is_known_at_first(folder: Path) -> None:
    assert Directories(folder).entries() == []
    assert not folder.exists()


def test_what_is_added_is_there_once_and_what_is_dropped_is_not(folder: Path) -> None:
    directories = Directories(folder)
    for name in ("a", "b", "c"):
        directories.add(entry(name))
    directories.add(entry("a", "newer"))
    assert directories.entries() == [entry("b"), entry("c"), entry("a", "newer")]
    directories.drop([entry("c"), entry("a")])  # "a" is another one by now
    assert directories.entries() == [entry("b"), entry("a", "newer")]
    assert os.listdir(folder) == ["directories"]
    assert stat.S_IMODE((folder / "directories").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"directory": 1, "reference": "r"}',
        '{"directory": "/x", "reference": null}',
        '{"directory": "relative", "reference": "r"}',
        '{"directory": "/nul\\u0000", "reference": "r"}',
        "[" * 100_000,
        "\udcff\udcfe",
    ],
)
def test_a_damaged_line_costs_one_entry(line: str, folder: Path) -> None:
    directories = Directories(folder)
    directories.add(entry("before"))
    with (folder / "directories").open("ab") as file:
        file.write(os.fsencode(line) + b"\n")
    directories.add(entry("after"))
    assert directories.entries() == [entry("before"), entry("after")]
    assert len((folder / "directories").read_text().splitlines()) == 2


def test_a_list_without_end_is_not_read_to_its_end(folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "directories").open("wb") as file:
        file.write(json.dumps({"directory": "/first", "reference": "r"}).encode() + b"\n")
        file.truncate(1 << 40)
    assert Directories(folder).entries() == [KnownDirectory("/first", "r")]


@given(st.text(st.characters(exclude_categories=()), max_size=40).filter(lambda text: "\0" not in text))
def test_any_name_comes_back(name: str) -> None:
    assert KnownDirectory.parse(json.dumps({"directory": f"/{name}", "reference": name})) == KnownDirectory(
        f"/{name}", name
    )


def test_many_at_once_lose_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.container.directories._LOCK_SECONDS", 60)  # each waits for up to nineteen others
    threads = [threading.Thread(target=Directories(folder).add, args=(entry(str(n)),)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {known.directory for known in Directories(folder).entries()} == {f"/{n}" for n in range(20)}


@pytest.mark.slow
def test_a_lock_that_stays_held_is_an_error_after_two_seconds(folder: Path) -> None:
    folder.mkdir(parents=True)
    holder = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            Directories(folder).add(entry("a"))
    finally:
        os.close(holder)


def test_a_full_file_system_leaves_the_list_as_it_was(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "size=16k"):
        directories = Directories(tmp_path)
        directories.add(entry("a"))
        with pytest.raises(OSError, match="No space"):
            directories.add(entry("b" * 20_000))
        assert directories.entries() == [entry("a")]
        assert os.listdir(tmp_path) == ["directories"]


def test_the_state_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (("/xdg", "/xdg/provision"), ("relative", f"{tmp_path}/.local/state/provision")):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_directory() == Path(expected)


# The main job


@pytest.fixture
def image() -> Iterator[str]:
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small())
        yield f"{registry.host}/image"


def test_the_main_job_adds_its_directory(image: str, tmp_path: Path) -> None:
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    for _ in ("new", "up to date"):
        provision(image, tmp_path / "dir", "--platform=amd64", env=env, status=0)
        known = Directories(tmp_path / "state/provision").entries()
        record = json.loads((tmp_path / "dir/.provision/record.json").read_text())
        with (tmp_path / "dir/.provision/ownership.mtree").open("rb") as written:
            content = content_of(written, record["manifest_digest"])
        assert known == [KnownDirectory(str(tmp_path / "dir"), f"{image}:latest", record["id"], content)]
    provision("no-such:image:", tmp_path / "other", env=env, status=2)
    assert len(Directories(tmp_path / "state/provision").entries()) == 1


def test_a_list_that_cannot_be_written_is_no_failure(image: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "file"))
    done = provision(image, tmp_path / "dir", "--platform=amd64", env=env, status=0)
    assert done.stderr.splitlines()[-1].startswith("  start: ")
