"""The catalogue: which source a short name leads to, and when."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from provisioner.catalogue import Catalogue, is_short
from provisioner.errors import UsageError
from provisioner.image.platform import Platform
from provisioner.image.source_name import Lxc, RegistryName
from tests.support import builders
from tests.support.lxc_server import LxcServer, rootfs
from tests.support.scripted_hub import ScriptedHub, hub_certificate, reachable
from tests.support.tools import CHECKOUT, clean_environment, provision

AMD64, ARM64, ARM7 = (Platform.parse(text) for text in ("amd64", "arm64", "arm/v7"))


def test_the_packaged_catalogue() -> None:
    packaged = Catalogue.packaged()
    assert packaged.find("archlinux", ARM64) == Lxc("archlinux", "current")
    assert packaged.find("archlinux", AMD64) is None
    assert packaged.find("void", ARM64) == Lxc("voidlinux", "current")
    assert packaged.find("alpine", ARM7) == Lxc("alpine", "edge")
    assert packaged.find("alpine", ARM64) is None
    assert isinstance(packaged.find("kali", ARM64), RegistryName)
    assert packaged.find("nothing", ARM64) is None
    assert all(is_short(name) for name in packaged.sources)


def test_the_page_lists_what_the_catalogue_has() -> None:
    page = (CHECKOUT / "docs/mirrors.md").read_text()
    listed = re.findall(r"^\| `([a-z]+)` \| ([^|]*) \| `([^`]*)` \|", page, re.MULTILINE)
    rows = [
        (name, str(platform or "any"), str(source))
        for name, table in Catalogue.packaged().sources.items()
        for platform, source in table.items()
    ]
    assert listed == rows
    checked = re.search(r"checked = (\S+)", (CHECKOUT / "profiles/catalogue.toml").read_text())
    assert checked
    assert checked[1] in page


def test_the_best_platform_and_any_other() -> None:
    table = {"linux/arm/v6": "lxc:a/6", "linux/arm/v7": "lxc:a/7", "*": "lxc:a/any"}
    found = Catalogue.parse({"x": table})
    assert found.find("x", Platform.parse("arm/v8")) == Lxc("a", "7")
    assert found.find("x", Platform.parse("arm/v6")) == Lxc("a", "6")
    assert found.find("x", Platform.parse("riscv64")) == Lxc("a", "any")


@pytest.mark.parametrize(
    "value",
    [[], {"x": "lxc:a/b"}, {"x": {"linux/vax": "lxc:a/b"}}, {"x": {"*": 5}}, {"x": {"*": "lxc:a"}}, {"x": {"*": "y"}},
     {"a/b": {"*": "lxc:a/b"}}, {"x:1": {"*": "lxc:a/b"}}, {"x": {"*": "./file"}}, {"x": {"*": "-"}}, {"X": {}},
     {"x": {"*": "rootfs:-"}}, {"x": {"*": "docker-archive:file"}}, {"x": {"*": "oci:../x"}}],
)  # fmt: skip
def test_catalogues_that_are_wrong(value: object) -> None:
    with pytest.raises((ValueError, UsageError)):
        Catalogue.parse(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("archlinux", True), ("a-b_c.d", True), ("archlinux:latest", False), ("library/archlinux", False), ("-", False),
     ("docker.io/library/archlinux", False), ("lxc:a/b", False), ("./x", False), ("x@sha256:0", False), ("", False)],
)  # fmt: skip
def test_short_names(text: str, expected: bool) -> None:
    assert is_short(text) == expected


class Hub:
    """Docker Hub with `archlinux` for amd64 alone, an LXC image server, and a configuration that names it."""

    def __init__(self, path: Path, hub: ScriptedHub, server: LxcServer, variables: dict[str, str]) -> None:
        self.path = path
        self.hub = hub
        self.server = server
        self.variables = variables
        self.config = f'[lxc]\nserver = "{server.address}"\n'

    def run(self, *words: str, platform: str = "arm64") -> tuple[int, list[str]]:
        (self.path / "config.toml").write_text(self.config)
        env = clean_environment(PROVISION_CONFIG=str(self.path / "config.toml"), **self.variables)
        words = (*words, f"--platform={platform}", str(self.path / "container"))
        done = provision(*words, cache=self.path / "cache", env=env)
        return done.returncode, done.stderr.splitlines()

    @property
    def reference(self) -> str:
        record = json.loads((self.path / "container/.provision/record.json").read_text())
        return str(record["reference"])


@pytest.fixture
def hub(tmp_path: Path) -> object:
    certificate = hub_certificate(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    with ScriptedHub(certificate) as hub, LxcServer() as server, reachable(hub, certificate[0]) as variables:
        image = builders.small()
        hub.push("library/archlinux", image, tag=None)
        hub.add_manifest("library/archlinux", builders.index([("linux/amd64", image)]), builders.OCI_INDEX, "latest")
        server.add("archlinux/current", rootfs(), architecture="arm64")
        server.add("voidlinux/current", rootfs(), architecture="arm64")
        yield Hub(place, hub, server, variables)


def test_a_short_name_that_docker_hub_has_no_image_of_for_this_platform(hub: Hub) -> None:
    status, lines = hub.run("archlinux")
    assert status == 0, lines
    assert hub.reference == "lxc:archlinux/current/default"
    assert (
        "archlinux:latest: the image has nothing for linux/arm64; it has linux/amd64: the catalogue has "
        "lxc:archlinux/current/default for it, which is used; --no-catalogue leaves it out"
    ) in lines


def test_a_short_name_that_docker_hub_does_not_know(hub: Hub) -> None:
    status, lines = hub.run("void")
    assert status == 0, lines
    assert hub.reference == "lxc:voidlinux/current/default"
    assert any("the catalogue has lxc:voidlinux/current/default for it, which is used" in line for line in lines)


def test_it_is_not_looked_at_where_docker_hub_has_the_image(hub: Hub) -> None:
    hub.config += '[catalogue.archlinux]\n"*" = "lxc:evil/current"\n'
    status, lines = hub.run("archlinux", platform="amd64")
    assert status == 0, lines
    assert hub.reference == "docker.io/library/archlinux:latest"
    assert hub.server.requests == []
    assert "catalogue" not in "\n".join(lines)


@pytest.mark.parametrize(
    "words",
    [["archlinux:latest"], ["docker.io/library/archlinux"], ["docker://archlinux"], ["library/archlinux"],
     ["--no-catalogue", "archlinux"], ["--no-catalogue", "void"], ["docker.io/library/void"]],
)  # fmt: skip
def test_never_in_place_of_what_is_named_in_full(hub: Hub, words: list[str]) -> None:
    status, lines = hub.run(*words)
    assert status == 3
    assert "catalogue" not in "\n".join(lines)
    assert hub.server.requests == []
    assert sorted(os.listdir(hub.path)) == ["cache", "config.toml"]


def test_the_users_own_names_come_first(hub: Hub) -> None:
    hub.config += '[catalogue.archlinux]\n"linux/arm64" = "lxc:voidlinux/current"\n[catalogue.mine]\n"*" = "void"\n'
    status, lines = hub.run("archlinux")
    assert status == 2
    assert "'void' is a short name (line" in lines[-2]
    hub.config = hub.config.replace('"void"', '"lxc:voidlinux/current"')
    assert hub.run("archlinux")[0] == 0
    assert hub.reference == "lxc:voidlinux/current/default"
    assert hub.run("mine", "--force")[0] == 0


def test_dir_may_be_left_out_the_second_time(hub: Hub) -> None:
    (hub.path / "config.toml").write_text(hub.config)
    env = clean_environment(PROVISION_CONFIG=str(hub.path / "config.toml"), **hub.variables)
    for said in ("./archlinux is ready", "./archlinux is up to date"):
        done = provision("archlinux", "--platform=arm64", cache=hub.path / "cache", env=env, cwd=hub.path, status=0)
        assert said in done.stderr


def test_where_the_catalogues_source_has_nothing_either(hub: Hub) -> None:
    status, lines = hub.run("archlinux", platform="riscv64")
    assert status == 3
    assert "it has linux/amd64; the catalogue has lxc:archlinux/current/default for it: " in lines[-2]
    assert "has nothing for linux/riscv64; it has linux/arm64" in lines[-2]
    assert not (hub.path / "container").exists()


def test_a_registry_that_cannot_be_reached_is_no_reason(hub: Hub) -> None:
    hub.variables = {**hub.variables, "HTTPS_PROXY": "http://127.0.0.1:1"}
    status, lines = hub.run("archlinux")
    assert status == 5, lines
    assert lines[-1].endswith("; which mirrors answer here: provision mirrors")
    assert hub.server.requests == []


def test_mirrors_of_docker_hub_are_not_asked_for_lxc_images(hub: Hub) -> None:
    status, lines = hub.run("archlinux", f"--mirror={hub.hub.host}/nothing")
    assert status == 0, lines
    assert not [line for line in lines if "rootfs.tar.xz" in line]


def test_a_lock_names_what_was_found(hub: Hub) -> None:
    lock = hub.path / "lock"
    assert hub.run("archlinux", f"--lock={lock}")[0] == 0
    assert 'reference = "lxc:archlinux/current/default"' in lock.read_text()
    status, lines = hub.run("archlinux", f"--locked={lock}")
    assert status == 2
    assert "is the lock of lxc:archlinux/current/default, not of docker.io/library/archlinux:latest" in lines[-2]
    assert hub.run("lxc:archlinux/current", f"--locked={lock}")[0] == 0
