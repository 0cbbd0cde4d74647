"""docs/mistakes.md: each row is typed, and has to end with its exit status, its message and its hint."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.cli import main
from tests.support import builders
from tests.support.archives import Member
from tests.support.local_archives import PLAIN, docker_members, write_archive
from tests.support.scripted_hub import (
    ScriptedHub,
    hub_certificate,
    image_on_hub,
    reachable,
    repository_on_hub,
    tag_on_hub,
)
from tests.support.tools import CHECKOUT, need_libmagic

PAGE = CHECKOUT / "docs/mistakes.md"

Output = pytest.CaptureFixture[str]


def read_rows() -> list[tuple[str, int, str, str]]:
    """Return the command, the exit status, the message and the hint of each row."""
    rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `provision")
    ]
    return [(command.strip("`"), int(status), message, hint) for command, status, message, hint in rows]


ROWS = read_rows()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Docker Hub is a scripted one, with ubuntu, alpine and an image for arm64 alone."""
    certificate = hub_certificate(tmp_path_factory.mktemp("hub"))
    with ScriptedHub(certificate) as served, reachable(served, certificate[0]) as variables:
        served.repositories = [repository_on_hub("ubuntu")]
        for name, platform in (("ubuntu", "linux/amd64"), ("alpine", "linux/amd64"), ("armonly", "linux/arm64")):
            served.push(f"library/{name}", builders.small(on=platform, run={"Cmd": [name]}))
            served.listed[f"library/{name}"] = [tag_on_hub("latest", image_on_hub(platform))]
        yield variables


@pytest.fixture(scope="module")
def place(hub: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a container of alpine, a lock of it, and what else may be in the way."""
    place = tmp_path_factory.mktemp("place")
    write_config(place)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(hub, place).items():
            patch.setenv(name, value)
        patch.chdir(place)
        assert main(["alpine", "container", "--lock", "alpine.lock", "--quiet"]) == 0
        assert main(["armonly", "new", "--quiet"]) == 3  # a later row is about it in the cache
    (place / "work").mkdir()
    (place / "work/notes.txt").write_text("mine\n")
    (place / "notes.txt").write_text("mine\n")
    (place / "Notes").write_text("mine\n")
    (place / "loop").symlink_to("loop")
    write_archives(place)
    return place


def write_archives(place: Path) -> None:
    """Write a root file system, an image, two images, and what is an image and a root file system."""
    root: list[Member] = [("bin/sh", b""), ("etc/passwd", b""), ("usr/x", b""), ("var/x", b"")]
    image, other = docker_members(PLAIN, "one:1"), docker_members(builders.image(*PLAIN.layers, run={}), "two:2")
    entries = [json.loads(dict(members)["manifest.json"])[0] for members in (image, other)]  # type: ignore[arg-type]
    two = [*image[:-1], *other[:-1], ("manifest.json", json.dumps(entries).encode())]
    for name, members in {"root": root, "image": image, "two": two, "both": [*image, *root]}.items():
        write_archive(place / f"{name}.tar", members)


def environment(hub: dict[str, str], place: Path) -> dict[str, str]:
    """Return the environment of each row: nothing of this machine's user counts."""
    home = place.with_name(f"{place.name}-home")
    directories = {name: str(home / name) for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    return {**hub, **directories, "HOME": str(home), "REGISTRY_AUTH_FILE": str(home / "auth.json")}


def write_config(place: Path) -> None:
    """Write the configuration that makes the rows the same on all machines."""
    path = Path(environment({}, place)["XDG_CONFIG_HOME"], "provision/config.toml")
    path.parent.mkdir(parents=True)
    path.write_text('platform = "linux/amd64"\n')


def test_there_are_enough_rows_and_none_twice() -> None:
    assert len(ROWS) >= 120
    assert len({command for command, *_ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_mistake(
    row: tuple[str, int, str, str], hub: dict[str, str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    for name in ("PROVISION_CACHE_DIR", "PROVISION_MIRRORS", "PROVISION_TRUST_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(hub, place).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place)
    before = sorted(os.listdir(place))
    command, *expected = row
    if "(ASCII text)" in str(row):
        need_libmagic()
    answered = [exit_status(shlex.split(command)[1:]), *answer(capsys, place)]
    assert list(map(without_digests, answered)) == list(map(without_digests, expected))
    assert sorted(os.listdir(place)) == before


def without_digests(cell: object) -> str:
    """Return a cell without digests of our images, which each version of zlib compresses in its way."""
    return re.sub(r"\bsha256:[0-9a-f]{12}\b", "sha256:…", str(cell))


def exit_status(words: list[str]) -> int:
    """Return the exit status of `provision` with these words."""
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


def answer(capsys: Output, place: Path) -> list[str]:
    """Return the message and the hint, without the steps before them. The list of subcommands is named so."""
    out, err = capsys.readouterr()
    assert out == ""
    if err.startswith("provision turns"):
        return ["the list of subcommands", ""]
    said = err[err.rindex("provision: ") :].replace(f"{place}-home", "/home/you").replace(str(place), "~")
    message, _, hint = said.partition("\n")
    assert "\n" not in hint.strip()
    return [message.removeprefix("provision: "), hint.strip()]
