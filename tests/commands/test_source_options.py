"""`--lock` and `--locked`: the image that was locked, on each of its platforms, with or without a registry."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Broken, ScriptedRegistry
from tests.support.tools import provision

AMD, ARM = builders.small(on="linux/amd64"), builders.small(on="linux/arm64", run={"User": "arm"})
INDEX = builders.index([("linux/amd64", AMD), ("linux/arm64", ARM)])
NEW = builders.small(on="linux/amd64", run={"User": "new"})


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the index `x` for two platforms."""
    for image in (AMD, ARM):
        registry.push("x", image, tag=None)
    registry.add_manifest("x", INDEX, builders.OCI_INDEX, "latest")
    return registry


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "x.lock"


def ask(
    registry: ScriptedRegistry, directory: Path, *words: str, image: str = "x", platform: str = "amd64"
) -> subprocess.CompletedProcess[str]:
    cache = directory.parent / "cache"
    return provision(*words, f"--platform={platform}", f"{registry.host}/{image}", directory, cache=cache)


def manifest_of(directory: Path) -> bytes:
    return (directory / ".provision/manifest.json").read_bytes()


def test_a_tag_that_moved_is_reported_and_not_followed(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    assert f'index = "{builders.digest_of(INDEX)}"' in lock.read_text()
    before = lock.read_bytes()
    same = ask(registry, tmp_path / "second", f"--locked={lock}")
    assert same.returncode == 0
    assert "has moved" not in same.stderr
    registry.push("x", NEW)
    moved = ask(registry, tmp_path / "third", f"--locked={lock}")
    assert moved.returncode == 0
    assert f"{registry.host}/x:latest has moved since 20" in moved.stderr
    assert f"it is {builders.digest_of(NEW.manifest)[:19]} now" in moved.stderr
    assert manifest_of(tmp_path / "third") == AMD.manifest
    records = [json.loads((tmp_path / name / ".provision/record.json").read_text()) for name in ("third", "first")]
    assert records[0] == {**records[1], "id": records[0]["id"]}
    assert lock.read_bytes() == before
    up_to_date = ask(registry, tmp_path / "third", f"--locked={lock}")
    assert "third is up to date" in up_to_date.stderr


def test_every_locked_platform(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    registry.push("x", NEW)
    assert ask(registry, tmp_path / "arm", f"--locked={lock}", platform="arm64").returncode == 0
    assert manifest_of(tmp_path / "arm") == ARM.manifest
    other = ask(registry, tmp_path / "other", f"--locked={lock}", platform="s390x")
    assert other.returncode == 3
    assert "the lock has nothing for linux/s390x; it has linux/amd64, linux/arm64" in other.stderr


def test_without_a_registry_when_the_cache_has_it(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    registry.on("/v2/.*", Broken(500, b"", sent=0))
    done = ask(registry, tmp_path / "second", f"--locked={lock}")
    assert done.returncode == 0, done.stderr
    asked = len(registry.requests)
    done = ask(registry, tmp_path / "third", f"--locked={lock}", "--offline")
    assert done.returncode == 0, done.stderr
    assert len(registry.requests) == asked
    assert manifest_of(tmp_path / "third") == AMD.manifest
    arm = ask(registry, tmp_path / "arm", f"--locked={lock}", "--offline", platform="arm64")
    assert arm.returncode == 5
    assert f"no manifest {builders.digest_of(ARM.manifest)}" in arm.stderr


def test_a_registry_that_does_not_answer_delays_nothing(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    silent = threading.Event()
    registry.on("/v2/.*", Broken(200, b"{}", wait=silent, sent=0))
    done = ask(registry, tmp_path / "second", f"--locked={lock}")
    silent.set()
    assert done.returncode == 0, done.stderr


def test_an_image_without_an_index(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    registry.push("single", AMD)
    assert ask(registry, tmp_path / "first", f"--lock={lock}", image="single").returncode == 0
    registry.push("single", NEW)
    done = ask(registry, tmp_path / "second", f"--locked={lock}", image="single")
    assert "has moved since" in done.stderr
    assert manifest_of(tmp_path / "second") == AMD.manifest


def test_a_locked_manifest_that_is_gone(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    registry.on(f".*/manifests/{builders.digest_of(ARM.manifest)}", Response.error(404, "MANIFEST_UNKNOWN", "gone"))
    done = ask(registry, tmp_path / "arm", f"--locked={lock}", platform="arm64")
    assert done.returncode == 3
    assert f"has no manifest {builders.digest_of(ARM.manifest)}" in done.stderr


def test_a_registry_that_serves_another_manifest(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    registry.on(f".*/manifests/{builders.digest_of(ARM.manifest)}", Response(200, NEW.manifest))
    assert ask(registry, tmp_path / "arm", f"--locked={lock}", platform="arm64").returncode == 6
    assert not (tmp_path / "arm").exists()


def test_a_lock_that_contradicts_itself(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    assert ask(registry, tmp_path / "first", f"--lock={lock}").returncode == 0
    text = lock.read_text()
    head, layers, tail = text.partition("[layers]")
    lock.write_text(head + layers + tail.replace(builders.digest_of(AMD.layers[0].blob), f"sha256:{'0' * 64}"))
    done = ask(registry, tmp_path / "second", f"--locked={lock}")
    assert done.returncode == 2
    assert "the lock names other layers for linux/amd64" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lock=a", "--locked=b"], "--lock and --locked contradict each other"),
        (["--offline", "--no-cache"], "--offline and --no-cache contradict each other"),
        (["--locked=/dev/null"], "/dev/null: format is missing"),
        (["--locked=/nowhere"], "read /nowhere: No such file"),
        (["--lock="], "--lock needs the name of a file"),
        (["--locked="], "--locked needs the name of a file"),
    ],
)
def test_usage(registry: ScriptedRegistry, tmp_path: Path, words: list[str], says: str) -> None:
    done = ask(registry, tmp_path / "dir", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert registry.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_lock_is_named_with_line_and_key(registry: ScriptedRegistry, tmp_path: Path, lock: Path) -> None:
    lock.write_text("format = 1\nrefrence = 'x'\n")
    done = ask(registry, tmp_path / "dir", f"--locked={lock}")
    assert done.returncode == 2
    assert f"{lock} has an unknown key 'refrence'; did you mean reference? (line 2)" in done.stderr


def test_a_lock_that_cant_be_written(registry: ScriptedRegistry, tmp_path: Path) -> None:
    done = ask(registry, tmp_path / "dir", f"--lock={tmp_path}/no/such/place")
    assert done.returncode == 7
    assert "write the lock" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("  name a file in an existing directory")
    assert not (tmp_path / "dir").exists()
    assert not registry.asked(".*")
