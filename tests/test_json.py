"""docs/json.md: every command's `--json` has the fields that the page names, of these types, and no others."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli import COMMANDS
from provisioner.commands.output import JSON_FORMAT
from tests.support import builders
from tests.support.lxc_server import LxcServer, rootfs
from tests.support.scripted_hub import (
    ScriptedHub,
    hub_certificate,
    image_on_hub,
    reachable,
    repository_on_hub,
    tag_on_hub,
)
from tests.support.tools import CHECKOUT, clean_environment, provision

PAGE = CHECKOUT / "docs/json.md"
TYPES: Mapping[str, type] = {"text": str, "number": int, "boolean": bool, "object": dict, "null": type(None)}
HISTORY = {"history": [{"created_by": "one"}, {"created_by": "two"}]}


def read_sections() -> dict[str, dict[str, str]]:
    """Return the types of all fields by their paths, for each heading."""
    sections = {}
    for text in PAGE.read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| `(\S+)` \| ([^|]+) \|", text, re.MULTILINE)
        sections[text.partition("\n")[0]] = dict(rows)
    return sections


SECTIONS = read_sections()


def is_of(value: object, kind: str) -> bool:
    """Return whether a value is of a type in the page's words: `list of texts or null`."""
    kind, _, alternative = kind.partition(" or ")
    if alternative and value is None:
        return alternative == "null"
    first, _, items = kind.partition(" of ")
    if first == "list":
        return isinstance(value, list) and all(is_of(item, items.removesuffix("s")) for item in value)
    if items:
        return isinstance(value, dict) and all(is_of(item, items.removesuffix("s")) for item in value.values())
    return isinstance(value, TYPES[first]) and (first == "boolean") == isinstance(value, bool)


def differences(value: Mapping[str, Any], fields: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    """Return what differs between an object and the page's fields, whose paths begin with `prefix`."""
    own = {path.removeprefix(prefix): kind for path, kind in fields.items() if path.startswith(prefix)}
    names = {path: kind for path, kind in own.items() if not re.search(r"[.\[]", path)}
    for name in names.keys() ^ value.keys():
        yield f"{prefix}{name} is {'not there' if name in names else 'not on the page'}"
    for name in names.keys() & value.keys():
        if not is_of(value[name], names[name]):
            yield f"{prefix}{name} is no {names[name]}: {value[name]!r}"
        elif names[name] == "list of objects":
            for item in value[name]:
                yield from differences(item, fields, f"{prefix}{name}[].")
        elif any(path.startswith(f"{name}.") for path in own):
            yield from differences(value[name], fields, f"{prefix}{name}.")


class Place:
    """A container, and the servers that the commands ask; what they write is read by `check`."""

    def __init__(self, path: Path, variables: Mapping[str, str]) -> None:
        self.path = path
        home = {"HOME": str(path), "XDG_STATE_HOME": str(path / "state"), "PROVISION_CONFIG": str(path / "config.toml")}
        self.env = clean_environment(**variables, **home)
        self.directory = path / "dir"

    def run(self, *words: str | Path, status: int = 0) -> str:
        done = provision(*words, cache=self.path / "cache", env=self.env, cwd=self.path, status=status)
        return done.stdout

    def check(self, section: str, *words: str | Path, status: int = 0) -> dict[str, Any]:
        """Run a command with --json and compare what it writes with a section of the page. Return it."""
        written = self.run(*words, "--json", status=status)
        assert written.isascii()
        value: dict[str, Any] = json.loads(written)
        assert next(iter(value.items())) == ("format", JSON_FORMAT)
        assert value["format"] == JSON_FORMAT
        assert list(differences(value, SECTIONS[section])) == []
        return value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("json").resolve()
    certificate = hub_certificate(tmp_path_factory.mktemp("hub"))
    with ScriptedHub(certificate) as hub, LxcServer() as lxc, reachable(hub, certificate[0]) as variables:
        hub.push("library/ubuntu", builders.small(config=HISTORY))
        hub.push("library/busybox", builders.small())
        hub.repositories = [repository_on_hub("ubuntu"), repository_on_hub("a/ubuntu", short_description=None)]
        hub.listed["library/ubuntu"] = [tag_on_hub("latest", image_on_hub("linux/amd64"))]
        lxc.add("debian/trixie", rootfs(), architecture="amd64")
        known = '[known-mirrors]\n"docker.io" = []\nlxc = []\n'
        (path / "config.toml").write_text(f'{known}[lxc]\nserver = "{lxc.address}"\n')
        place = Place(path, variables)
        place.check("install", "ubuntu", "dir", "--platform=amd64", "--hostname=box")
        yield place
        hub.push("library/ubuntu", builders.image(builders.layer(("etc/new", b"new"))))
        (place.directory / "rootfs/etc/mine").write_text("mine")
        assert place.check("update", "update", "dir", "--dry-run")["changes"]


def test_every_command_with_json_is_on_the_page() -> None:
    have = set()
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        if any("--json" in action.option_strings for action in parser._actions):
            have.add(name)
    assert {section.split()[0] for section in SECTIONS} == have


SILENT = {
    *("owners", "link", "backup", "restore", "export", "push", "copy", "move", "remove", "login", "logout"),
    *("run", "start", "shell", "exec", "stop", "logs", "completion"),  # start.sh, a log, or a script writes
}


def test_a_command_without_json_writes_no_data() -> None:
    """Every command has --json, or writes nothing of its own to standard output."""
    assert {section.split()[0] for section in SECTIONS} | SILENT == set(COMMANDS)
    for name in SILENT - {"logs", "completion"}:
        module = sys.modules[getattr(COMMANDS[name], "__name__", type(COMMANDS[name]).__module__)]
        text = inspect.getsource(module)
        assert not re.search("write_(lines|json)\\(|stdout(?!\\.flush)|print\\((?!.*stderr)", text), name


def test_list(place: Place) -> None:
    shutil.copytree(place.directory, place.path / "copy", symlinks=True)
    rows = place.check("list", "list")["directories"]
    shutil.rmtree(place.path / "copy")
    rows += place.check("list", "list")["directories"]
    assert [(bool(row["copy_of"]), row["is_gone"]) for row in rows] == [
        (False, False), (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_doctor(place: Place) -> None:
    status = provision(
        "doctor", "--offline", "--quiet", "dir", cache=place.path / "cache", env=place.env, cwd=place.path
    )
    value = place.check("doctor", "doctor", "--offline", "dir", status=status.returncode)
    assert value["works"] == (status.returncode == 0)
    assert value["checks"]


def test_inspect(place: Place) -> None:
    assert place.check("inspect", "inspect", "./dir")["layers"]
    assert place.check("inspect", "inspect", "ubuntu", "--platform=amd64")["layers"][0]["created_by"] == "one"


def test_config(place: Place) -> None:
    assert place.check("config", "config", "./dir")["hostname"] == "box"


def test_expose(place: Place) -> None:
    place.run("link", "./dir", "box")
    assert place.check("expose --list", "expose", "--list")["programs"]


def test_diff_and_repair(place: Place) -> None:
    added, changed = place.directory / "rootfs/etc/added", place.directory / "rootfs/bin/sh"
    before = changed.read_bytes()
    added.write_text("added")
    changed.write_text("changed")
    assert len(place.check("diff", "diff", "dir")["changes"]) > 1
    assert place.check("diff --stat", "diff", "dir", "--stat")["directories"]
    assert place.check("repair", "repair", "dir", "--check", status=6)["damaged"]
    added.unlink()
    changed.write_bytes(before)


def test_search_and_tags(place: Place) -> None:
    assert place.check("search", "search", "ubuntu")["repositories"]
    assert place.check("search lxc:", "search", "lxc:debian")["images"]
    assert place.check("tags", "tags", "ubuntu", "--platform=amd64")["tags"]


def test_mirrors(place: Place) -> None:
    assert place.check("mirrors", "mirrors")["servers"]


def test_cache(place: Place) -> None:
    assert place.check("cache", "cache")["images"]
    assert place.check("cache", "cache", "clear")["files"]
