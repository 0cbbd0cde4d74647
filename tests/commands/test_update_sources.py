"""`provision update` from and to images of all sources."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.archives import Member, tar
from tests.support.local_archives import docker_members, oci_members, write_archive, write_directory
from tests.support.lxc_server import LxcServer, rootfs
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, provision

OLD: list[Member] = [("bin/tool", b"tool 1"), ("etc/conf", b"conf 1"), ("usr/lib/gone", b"gone")]
NEW: list[Member] = [("bin/tool", b"tool 2"), ("etc/conf", b"conf 1"), ("usr/lib/new", b"new")]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))


def image(members: list[Member]) -> builders.Image:
    return builders.image(builders.layer(*members), run={"Cmd": ["/bin/tool"]})


def run(*words: str | Path, env: dict[str, str], status: int = 0) -> subprocess.CompletedProcess[str]:
    return provision(*words, env=env, status=status)


def write_source(kind: str, path: Path, members: list[Member]) -> str:
    """Write an image of a kind to a path, in place of what is there, and return its name."""
    made = image(members)
    if kind == "oci":
        write_directory(path, oci_members(("latest", made)))
        return f"oci:{path}:latest"
    if kind == "rootfs":
        path.write_bytes(tar(*members))
        return f"rootfs:{path}"
    if kind == "docker-archive":
        write_archive(path, docker_members(made, "name:latest"))
    else:
        write_archive(path, oci_members(("latest", made)))
    return f"{kind}:{path}"


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci", "rootfs"])
def test_a_file_that_holds_another_image_by_now(tmp_path: Path, env: dict[str, str], kind: str) -> None:
    directory = tmp_path / "dir"
    source = write_source(kind, tmp_path / "source", OLD)
    run(source, directory, "--platform=linux/amd64", env=env)
    (directory / "rootfs/etc/conf").write_bytes(b"mine")
    assert "up to date" in run("update", "--check", directory, env=env).stderr
    if kind == "oci":
        (tmp_path / "source").rename(tmp_path / "old source")
    write_source(kind, tmp_path / "source", NEW)
    run("update", "--check", directory, env=env, status=9)
    done = run("update", "--yes", "--no-keep", directory, env=env)
    assert done.stdout.splitlines()[1] == "yours: 1 change stays"
    check(directory)
    assert "up to date" in run("update", "--check", directory, env=env).stderr
    (tmp_path / "source").rename(tmp_path / "gone")
    message = run("update", "--yes", directory, env=env, status=3).stderr
    assert str(tmp_path / "source") in message
    check(directory)


def check(directory: Path) -> None:
    """Look whether both sides are there."""
    files = {"bin/tool": "tool 2", "etc/conf": "mine", "usr/lib/new": "new"}
    assert {path: (directory / "rootfs" / path).read_text() for path in files} == files
    assert not (directory / "rootfs/usr/lib/gone").exists()


def test_from_one_kind_to_another(tmp_path: Path, env: dict[str, str]) -> None:
    directory = tmp_path / "dir"
    with ScriptedRegistry() as registry:
        registry.push("image", image(OLD))
        run(f"{registry.host}/image", directory, "--platform=linux/amd64", env=env)
        (directory / "rootfs/etc/conf").write_bytes(b"mine")
        for kind in ("rootfs", "oci-archive"):
            source = write_source(kind, tmp_path / kind, NEW)
            run("update", "--yes", "--no-keep", "--to", source, directory, env=env)
            check(directory)
            assert json.loads((directory / ".provision/record.json").read_text())["reference"] == source
        run("update", "--yes", "--no-keep", "--to", f"{registry.host}/image", directory, env=env)
    assert (directory / "rootfs/bin/tool").read_bytes() == b"tool 1"
    assert (directory / "rootfs/etc/conf").read_bytes() == b"mine"


def test_an_image_from_standard_input_has_no_newer_one(tmp_path: Path, env: dict[str, str]) -> None:
    """It says so, and what to type."""
    archive = write_archive(tmp_path / "archive", docker_members(image(OLD), "name:latest"))
    directory = tmp_path / "dir"
    with archive.open("rb") as file:
        done = provision("-", directory, "--platform=linux/amd64", env=env, stdin=file)
    assert done.returncode == 0, done.stderr
    done = run("update", "--yes", directory, env=env, status=2)
    assert "--to" in done.stderr


def test_a_pinned_image_and_a_lock(tmp_path: Path, env: dict[str, str]) -> None:
    """A digest stays what it is, until --to names another image. A lock is for its own run."""
    with ScriptedRegistry() as registry:
        registry.push("image", image(OLD))
        name = f"{registry.host}/image"
        run(name, tmp_path / "first", "--platform=linux/amd64", "--lock", tmp_path / "lock", env=env)
        digest = json.loads((tmp_path / "first/.provision/record.json").read_text())["manifest_digest"]
        run(f"{name}@{digest}", tmp_path / "pinned", "--platform=linux/amd64", env=env)
        run(name, tmp_path / "locked", "--platform=linux/amd64", "--locked", tmp_path / "lock", env=env)
        registry.push("image", image(NEW))
        done = run("update", "--yes", tmp_path / "pinned", env=env)
        assert "--to" in done.stderr
        run("update", "--yes", "--no-keep", "--to", name, tmp_path / "pinned", env=env)
        run("update", "--check", tmp_path / "locked", env=env, status=9)
        run("update", "--yes", "--no-keep", tmp_path / "locked", env=env)
    for directory in ("pinned", "locked"):
        assert (tmp_path / directory / "rootfs/bin/tool").read_bytes() == b"tool 2"


def test_an_image_server(tmp_path: Path, env: dict[str, str]) -> None:
    """The newest build of its image."""
    with LxcServer() as server:
        config = tmp_path / "config.toml"
        config.write_text(f"[lxc]\nserver = {json.dumps(server.address)}\n")
        env = {**env, "PROVISION_CONFIG": str(config)}
        server.add("tiny/1", rootfs(*OLD), "20260101_05:24")
        directory = tmp_path / "dir"
        run("lxc:tiny/1", directory, "--platform=linux/amd64", env=env)
        (directory / "rootfs/etc/conf").write_bytes(b"mine")
        run("update", "--check", directory, env=env)
        server.add("tiny/1", rootfs(*NEW), "20260202_05:24")
        run("update", "--check", directory, env=env, status=9)
        run("update", "--yes", "--no-keep", directory, env=env)
    check(directory)
