"""`provision mirrors`: Docker Hub under its own host names, an LXC image server, and mirrors of both on loopback."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provisioner.commands.mirrors import Tried, worth_using
from provisioner.config import Config
from provisioner.image.reference import Reference
from provisioner.image.server_address import ServerAddress
from provisioner.registry.mirror_check import Outcome
from provisioner.registry.mirrors import locate_mirror
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.lxc_server import LxcServer, rootfs
from tests.support.scripted_hub import ScriptedHub, hub_certificate, reachable
from tests.support.scripted_registry import Broken, Link, ScriptedRegistry, html
from tests.support.terminal import on_terminal, plain
from tests.support.tools import CHECKOUT, clean_environment, provision

IMAGE = builders.small()
NAME = "library/busybox"


@dataclass
class Place:
    """A Docker Hub with a mirror of it, an LXC image server with a mirror of it, and a configuration."""

    path: Path
    hub: ScriptedHub
    mirror: ScriptedRegistry
    lxc: LxcServer
    lxc_mirror: LxcServer
    variables: dict[str, str]
    text: str = ""
    known: dict[str, list[str]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    def write(self, text: str = "") -> None:
        """Write a configuration that names the servers, and `text`."""
        known = f'"docker.io" = {json.dumps(self.known["docker.io"])}\nlxc = {json.dumps(self.known["lxc"])}'
        self.config.write_text(f'{text}\n[known-mirrors]\n{known}\n[lxc]\nserver = "{self.lxc.address}"\n')

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = clean_environment(PROVISION_CONFIG=str(self.config), **{**self.variables, **variables})
        return provision("mirrors", *words, env=env)

    def found(self) -> dict[str, dict[str, Any]]:
        """Return what `--json` says of each address."""
        done = self.run("--json")
        assert done.returncode == 0, done.stderr
        return {each["address"]: each for each in json.loads(done.stdout)["servers"]}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    certificate = hub_certificate(tmp_path)
    with (
        ScriptedHub(certificate) as hub,
        ScriptedRegistry() as mirror,
        LxcServer() as lxc,
        lxc.mirror() as lxc_mirror,
        reachable(hub, certificate[0]) as variables,
    ):
        for registry in (hub, mirror):
            registry.push(NAME, IMAGE)
        for build in ("20260912_05:24", "20260913_05:24"):
            lxc.add("alpine/edge", rootfs(), build=build)
        lxc.add("debian/bookworm", rootfs(("./large", os.urandom(10_000))))
        lxc_mirror.files.update(lxc.files)
        found = Place(tmp_path, hub, mirror, lxc, lxc_mirror, variables)
        found.known = {"docker.io": [mirror.host], "lxc": [lxc_mirror.address]}
        found.write()
        yield found


def test_what_answers_and_how_fast(place: Place) -> None:
    found = place.found()
    assert list(found) == ["docker.io", place.mirror.host, place.lxc.address, place.lxc_mirror.address]
    assert {each["kind"] for each in found.values()} == {"origin", "known"}
    assert all(each["works"] and each["verified"] and each["bytes_per_second"] > 0 for each in found.values())
    [file] = place.lxc_mirror.asked(".*rootfs.*")
    assert file.path.endswith("/alpine/edge/amd64/default/20260912_05%3A24/rootfs.tar.xz"), (
        "a small one, that is not new"
    )


def test_only_one_manifest_is_pulled_from_docker_hub(place: Place) -> None:
    place.found()
    assert [request.method for request in place.hub.asked("/v2/.*/manifests/.*")].count("GET") == 1


def test_rate_limits(place: Place) -> None:
    limits = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
    headers = {"Docker-Content-Digest": builders.digest_of(IMAGE.manifest), "Content-Type": IMAGE.media_type, **limits}
    place.hub.on(f"/v2/{NAME}/manifests/.*", lambda request: (
        Response(200, IMAGE.manifest, headers) if "Authorization" in request.headers else None
    ))  # fmt: skip
    found = place.found()["docker.io"]
    assert (found["limit"], found["remaining"], found["window"]) == (100, 76, 21600)


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/v2/.*", Response(403), "refuses access"),
        ("/v2/.*", html(), "is not a registry"),
        ("/v2/.*", Response(429), "too many requests"),
        ("/v2/.*/blobs/.*", Response(404), "is incomplete: the registry has no blob"),
        ("/v2/.*/blobs/.*", Response(200, bytes(7)), "has 7 bytes"),
        ("/v2/.*/blobs/.*", Broken(0), "can't be reached"),
        ("/v2/.*/manifests/sha256:.*", Response(200, b"{}"), "has 2 bytes"),
    ],
)
def test_a_mirror_of_docker_hub_that_fails(place: Place, path: str, answer: Response, why: str) -> None:
    place.mirror.on(path, answer)
    found = place.found()[place.mirror.host]
    assert not found["works"]
    assert why in found["problem"]


def test_a_mirror_that_sends_other_bytes(place: Place) -> None:
    largest = max((layer.blob for layer in IMAGE.layers), key=len)
    place.mirror.on("/v2/.*/blobs/.*", Response(200, bytes(len(largest))))
    place.lxc_mirror.files = {path: bytes(len(data)) for path, data in place.lxc_mirror.files.items()}
    found = place.found()
    assert "does not match its digest" in found[place.mirror.host]["problem"]
    assert "does not match its digest" in found[place.lxc_mirror.address]["problem"]


def test_a_mirror_of_lxc_images_without_the_file(place: Place) -> None:
    place.lxc_mirror.files.clear()
    assert "has no images/alpine/edge" in place.found()[place.lxc_mirror.address]["problem"]


def test_nothing_is_written_without_being_asked_for(place: Place) -> None:
    place.hub.on(".*", Response(503))
    place.lxc.on(".*", Response(403))
    before = place.config.read_bytes()
    done = place.run()
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    start = lines.index("for config.toml (provision mirrors --write puts it there):")
    assert lines[start + 2 :] == [
        "[mirrors]", f'"docker.io" = ["{place.mirror.host}"]', "", "[lxc]", f'mirrors = ["{place.lxc_mirror.address}"]',
    ]  # fmt: skip
    assert place.config.read_bytes() == before


def test_writing_keeps_all_else(place: Place) -> None:
    place.hub.on(".*", Response(503))
    place.lxc.on(".*", Response(403))
    kept = '# mine\njobs = 3  # three\n\n[mirrors]\n# of work\n"ghcr.io" = ["nas.lan:5000"]\n"docker.io" = ['
    place.write(kept + '\n  "old.example",\n]\n')
    place.config.chmod(0o600)
    done = place.run("--write")
    assert done.returncode == 0, done.stderr
    assert f"{place.config} is changed" in done.stderr
    assert stat.S_IMODE(place.config.stat().st_mode) == 0o600
    text = place.config.read_text()
    config = Config.parse(text, "x")
    assert config.mirrors_for("docker.io") == (place.mirror.host, "old.example"), "a user's own mirror is never lost"
    assert config.mirrors_for("ghcr.io") == ("nas.lan:5000",)
    assert config.lxc.mirrors == (place.lxc_mirror.address,)
    assert config.lxc.server == place.lxc.address
    assert text.startswith(
        '# mine\njobs = 3  # three\n\n[mirrors]\n# of work\n"ghcr.io" = ["nas.lan:5000"]\n"docker.io" = ['
    )
    assert sorted(os.listdir(place.path)) == ["config.toml", "hub.key", "hub.pem"]
    assert "needs no change" in place.run("--write").stderr


def test_a_new_file_and_its_directory(place: Place, tmp_path: Path) -> None:
    """The usual place, where there is no file yet; Docker Hub and its LXC counterpart don't answer here."""
    home = tmp_path / "home"
    env = clean_environment(HTTPS_PROXY="http://127.0.0.1:1", HOME=str(home), PROVISION_MIRRORS=place.mirror.host)
    provision("mirrors", "--write", env=env, status=0)
    text = (home / ".config/provision/config.toml").read_text()
    assert tomllib.loads(text) == {"mirrors": {"docker.io": [place.mirror.host]}}


@pytest.mark.parametrize(
    "odd", ['mirrors = { "ghcr.io" = [] }\n', 'mirrors."ghcr.io" = []\n', '[mirrors]\n"docker\\u002eio" = []\n']
)
def test_a_file_that_cannot_be_changed_stays_as_it_is(place: Place, odd: str) -> None:
    place.hub.on(".*", Response(503))
    place.write(odd)
    before = place.config.read_bytes()
    done = place.run("--write")
    assert done.returncode == 2
    message, hint = done.stderr.splitlines()[-2:]
    assert (
        f"provision: {place.config} can't be changed: mirrors is not written as a table of its own, [mirrors]"
        in message
    )
    assert "without --write" in hint
    assert place.config.read_bytes() == before


def test_another_spelling_of_docker_hub(place: Place) -> None:
    place.hub.on(".*", Response(503))
    place.write('[mirrors]\n"index.docker.io" = ["a.example"]\n')
    before = place.config.read_bytes()
    done = place.run("--write")
    assert done.returncode == 2
    assert "can't be changed: it names docker.io in [mirrors] in another spelling as well" in done.stderr
    assert place.config.read_bytes() == before


def test_a_full_disk(place: Place) -> None:
    place.hub.on(".*", Response(503))
    before = place.config.read_bytes()
    env = clean_environment(PROVISION_CONFIG=str(place.config), **place.variables)
    done = provision("mirrors", "--write", env=env, preexec_fn=_write_no_files, status=7)
    assert f"write {place.config}: File too large" in done.stderr
    assert place.config.read_bytes() == before
    assert sorted(os.listdir(place.path)) == ["config.toml", "hub.key", "hub.pem"]


def _write_no_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))


def test_no_server_at_all(place: Place) -> None:
    for server in (place.hub, place.mirror, place.lxc, place.lxc_mirror):
        server.on(".*", Response(503))
    done = place.run("--write")
    assert done.returncode == 5
    assert "no server answers" in done.stderr
    assert "mirrors" not in tomllib.loads(place.config.read_text())


def test_on_a_terminal(place: Place, tmp_path: Path) -> None:
    place.mirror.on("/v2/.*", Response(403))
    variables = {**place.variables, "PROVISION_CONFIG": str(place.config)}
    status, text = on_terminal("mirrors", columns=100, cache=tmp_path / "cache", **variables)
    assert status == 0
    rows = plain(text).splitlines()
    assert any(row.startswith(f"{place.mirror.host}") and "refuses access" in row for row in rows)
    assert any(row.startswith("docker.io") and "Docker Hub" in row and "/s" in row for row in rows)


def test_the_slow_ones_are_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from provisioner.registry import mirror_check
    from provisioner.registry.lxc_server import LxcServer as Client

    monkeypatch.setattr(mirror_check, "BLOB_SECONDS", 1.0)  # of the eight that it takes
    place.lxc.add("alpine/edge", rootfs(("./noise", os.urandom(400_000))), build="20260901_05:24")
    for product in list(place.lxc.products):
        if product.startswith("debian"):
            del place.lxc.products[product]
    place.lxc.link = Link(50_000)
    [outcome] = mirror_check.try_servers(
        [mirror_check.ImageServer(Client(ServerAddress.parse(place.lxc.address)))], lambda count: None
    )
    assert (outcome.problem, outcome.is_verified) == ("", False)
    assert outcome.speed


@pytest.mark.parametrize(
    ("origin", "mirrors", "expected"),
    [
        (100.0, [("known", "a", 50.0), ("known", "b", 200.0), ("known", "c", 300.0)], ["c", "b"]),
        (None, [("known", "a", 50.0), ("known", "b", None)], ["a"]),
        (100.0, [("configured", "a", None), ("configured", "b", 50.0), ("known", "c", 200.0)], ["c", "a", "b"]),
        (None, [], []),
    ],
)
def test_what_is_worth_using(
    origin: float | None, mirrors: list[tuple[str, str, float | None]], expected: list[str]
) -> None:
    def tried(kind: str, name: str, speed: float | None) -> Tried:
        return Tried("lxc", name, kind, Outcome("" if speed else "it is away", speed))

    assert worth_using([tried("origin", "o", origin), *(tried(*each) for each in mirrors)]) == expected


def test_the_packaged_list_can_be_used_and_is_on_the_page() -> None:
    values = tomllib.loads((CHECKOUT / "profiles/mirrors.toml").read_text())
    page = (CHECKOUT / "docs/mirrors.md").read_text()
    for mirror in values["docker.io"]:
        assert locate_mirror(mirror, Reference.parse("busybox"))[0].repository.endswith("library/busybox")
        assert f"`{mirror}`" in page
    for mirror in values["lxc"]:
        assert ServerAddress.parse(mirror).is_private
        assert f"`{mirror}`" in page
    assert str(values["checked"]) in page
