"""A record.json from elsewhere: whatever it says, a terminal obeys none of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.container.directories import Directories, KnownDirectory
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision

EVIL = "\x1b]0;owned\x07\x9b2J\u202e\u2066\ud800\nprovision: all is well"
FIELDS = ("reference", "platform", "manifest_digest", "index_digest", "config_digest", "profile", "version")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("x", builders.small())
        yield served


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path) -> Path:
    provision(f"{registry.host}/x", tmp_path / "dir", "--platform=amd64", cache=tmp_path / "cache", status=0)
    return tmp_path / "dir"


def change(directory: Path, field: str) -> None:
    """Put something evil behind what a field of the record says."""
    path = directory / ".provision/record.json"
    record = json.loads(path.read_text())
    holder = record["layers"][0] if field in record["layers"][0] else record
    holder[field] += EVIL
    path.write_text(json.dumps(record))


def check(text: str) -> None:
    assert all(line.isprintable() for line in text.replace("\r\n", "\n").split("\n")), text
    assert "\nprovision: all is well" not in text


@pytest.mark.parametrize("field", [*FIELDS, "digest", "diff_id", "media_type"])
def test_no_command_shows_it_as_it_is(registry: ScriptedRegistry, directory: Path, tmp_path: Path, field: str) -> None:
    change(directory, field)
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"), COLUMNS="200")
    Directories(tmp_path / "state/provision").add(KnownDirectory(str(directory), f"x{EVIL}".replace("\ud800", "")))
    image = f"{registry.host}/x"
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("inspect", directory),
        ("inspect", "--json", directory),
        ("list",),
        ("list", "--json"),
        ("doctor", "--offline", directory),
        ("doctor", "--offline", "--json", directory),
        (image, directory, "--platform=amd64"),
        (image, directory, "--platform=amd64", "--json"),
    )
    for words in commands:
        done = provision(*words, cache=tmp_path / "cache", env=env)
        check(done.stdout)
        check(done.stderr)
        if words[0] in ("inspect", "list"):
            state = {"XDG_STATE_HOME": str(tmp_path / "state")}
            check(plain(on_terminal(*words, columns=200, cache=tmp_path / "cache", **state)[1]))
