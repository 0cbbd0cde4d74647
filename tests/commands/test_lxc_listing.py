"""`provision search lxc:…` and `provision tags lxc:…`, by the list of an LXC image server on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.loopback_registry import Response
from tests.support.lxc_server import IMAGES, LxcServer, rootfs
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision

ROOTFS = rootfs()


class Listing:
    """A server and the commands that list what it has."""

    def __init__(self, server: LxcServer, path: Path) -> None:
        self.server = server
        (path / "config.toml").write_text(f'[lxc]\nserver = "{server.address}"\n')
        self.variables = {"PROVISION_CONFIG": str(path / "config.toml")}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return provision(*words, env=clean_environment(**self.variables))


@pytest.fixture
def listing(tmp_path: Path) -> Iterator[Listing]:
    with LxcServer() as server:
        for name, architectures in {
            "debian/bookworm": ("amd64", "arm64"),
            "debian/bookworm/cloud": ("amd64",),
            "debian/trixie": ("arm64",),
            "alpine/3.9": ("amd64",),
            "alpine/3.22": ("amd64", "armhf"),
            "alpine/edge": ("amd64",),
        }.items():
            for architecture in architectures:
                server.add(name, ROOTFS, architecture=architecture, aliases=f"{name},{name}/other")
        server.add("alpine/edge", ROOTFS, build="20260915_13:00")
        server.products["alpine:evil:amd64:default"] = {"release": "\x1b[31m", "arch": "amd64", "os": "alpine"}
        yield Listing(server, tmp_path)


def test_search(listing: Listing) -> None:
    assert listing.run("search", "lxc:deb").stdout.split() == [
        "lxc:debian/bookworm", "lxc:debian/bookworm/cloud", "lxc:debian/trixie",
    ]  # fmt: skip
    assert len(listing.run("search", "lxc:").stdout.split()) == 6
    assert listing.run("search", "lxc:alpine/3").stdout.split() == ["lxc:alpine/3.22", "lxc:alpine/3.9"]
    [found] = json.loads(listing.run("search", "--json", "lxc:alpine/3.22").stdout)["images"]
    assert found == {
        "name": "lxc:alpine/3.22", "platforms": ["linux/amd64", "linux/arm/v7"], "updated": "2026-09-12T05:24:00Z",
    }  # fmt: skip


def test_search_with_a_limit(listing: Listing) -> None:
    done = listing.run("search", "--limit=2", "lxc:")
    assert len(done.stdout.split()) == 2
    assert "2 of 6 that were found" in done.stderr
    assert len(listing.run("search", "--all", "--limit=2", "lxc:").stdout.split()) == 6


def test_search_finds_nothing(listing: Listing) -> None:
    done = listing.run("search", "lxc:zzz")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no LXC image has a name that begins with 'lxc:zzz'" in done.stderr


def test_search_on_a_terminal(listing: Listing, tmp_path: Path) -> None:
    _, text = on_terminal("search", "lxc:alpine", columns=80, cache=tmp_path / "cache", **listing.variables)
    assert plain(text).splitlines()[:2] == [
        "NAME             BUILT       PLATFORMS",
        "lxc:alpine/3.22  2026-09-12  linux/amd64 linux/arm/v7",
    ]


def test_tags_newest_first_for_one_platform(listing: Listing) -> None:
    def tags(*words: str) -> list[str]:
        return listing.run("tags", "--platform=amd64", *words).stdout.split()

    assert tags("lxc:alpine") == ["3.22", "3.9", "edge"]
    assert tags("lxc:debian") == ["bookworm", "bookworm/cloud"]
    assert tags("lxc:debian/boo") == ["bookworm", "bookworm/cloud"]
    assert tags("--all", "lxc:debian") == ["bookworm", "bookworm/cloud", "trixie"]
    assert tags("--limit=1", "lxc:alpine") == ["3.22"]
    assert tags("lxc:Alpine/3.2") == ["3.22"]


def test_tags_as_json(listing: Listing) -> None:
    [found] = json.loads(listing.run("tags", "--json", "--platform=arm64", "lxc:debian/bookworm").stdout)["tags"]
    digest = listing.server.item("images/debian/bookworm/arm64/default/20260912_05:24/rootfs.tar.xz")["sha256"]
    assert found == {
        "name": "bookworm",
        "digest": f"sha256:{digest}",
        "platforms": ["linux/amd64", "linux/arm64"],
        "platform": "linux/arm64",
        "size": len(ROOTFS),
        "updated": "2026-09-12T05:24:00Z",
    }


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("lxc:debain",), 3, "no LXC image is called 'debain'; similar: debian"),
        (("lxc:debian/zz",), 3, "lxc:debian has no tags that begin with 'zz'"),
        (("--platform=s390x", "lxc:debian"), 3, "lxc:debian has 3 tags, but none for linux/s390x"),
        (("lxc:",), 2, "'lxc:' names no distribution"),
        (("lxc:a b",), 2, "'lxc:a b' names no distribution"),
    ],
)
def test_what_is_not_there(listing: Listing, words: tuple[str, ...], status: int, why: str) -> None:
    done = listing.run("tags", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert why in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1].startswith("  ")


@pytest.mark.parametrize("words", [("search", "lxc:deb"), ("tags", "lxc:debian")])
def test_servers_that_fail(listing: Listing, words: tuple[str, ...]) -> None:
    listing.server.on(IMAGES, Response(200, b'{"products": 5}'))
    done = listing.run(*words)
    assert done.returncode == 6
    assert "the list of products.products is a whole number, not an object" in done.stderr
    listing.server.on(".*", Response(403))
    assert listing.run(*words).returncode == 5


def test_tags_from_a_mirror_where_the_server_is_blocked(listing: Listing) -> None:
    with listing.server.mirror() as mirror:
        listing.server.on(".*", Response(403))
        done = listing.run("tags", f"--mirror={mirror.address}", "--platform=amd64", "lxc:alpine")
        assert done.stdout.split() == ["3.22", "3.9", "edge"]
        assert f"the list of LXC images comes from the mirror {mirror.host}; it is trusted then" in done.stderr
