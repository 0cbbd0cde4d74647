"""`--offline`: what the cache has is enough, and what it hasn't is named; nobody is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.sizes import size_text
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import provision

AMD, ARM = builders.small(on="linux/amd64"), builders.small(on="linux/arm64", run={"User": "arm"})


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the index `x` for two platforms."""
    for image in (AMD, ARM):
        registry.push("x", image, tag=None)
    index = builders.index([("linux/amd64", AMD), ("linux/arm64", ARM)])
    registry.add_manifest("x", index, builders.OCI_INDEX, "latest")
    return registry


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ask(
    registry: ScriptedRegistry, directory: Path, cache: Path, *words: str, image: str = "x", platform: str = "amd64"
) -> subprocess.CompletedProcess[str]:
    return provision(*words, f"--platform={platform}", f"{registry.host}/{image}", directory, cache=cache)


def file_of(cache: Path, data: bytes) -> Path:
    return cache / "sha256" / builders.digest_of(data).removeprefix("sha256:")


def test_what_was_fetched_once_is_there_without_a_network(
    registry: ScriptedRegistry, tmp_path: Path, cache: Path
) -> None:
    assert ask(registry, tmp_path / "first", cache).returncode == 0
    count = len(registry.requests)
    done = ask(registry, tmp_path / "second", cache, "--offline", "--json")
    assert done.returncode == 0, done.stderr
    assert len(registry.requests) == count
    first = json.loads((tmp_path / "first/.provision/record.json").read_text())
    assert {**json.loads(done.stdout), "id": first["id"]} == first  # each directory has its own
    by_digest = ask(registry, tmp_path / "third", cache, "--offline", image=f"x@{builders.digest_of(AMD.manifest)}")
    assert by_digest.returncode == 0, by_digest.stderr
    up_to_date = ask(registry, tmp_path / "first", cache, "--offline")
    assert "first is up to date" in up_to_date.stderr
    assert len(registry.requests) == count


def test_online_a_cached_tag_is_asked_for_anew(registry: ScriptedRegistry, tmp_path: Path, cache: Path) -> None:
    assert ask(registry, tmp_path / "first", cache).returncode == 0
    new = builders.small(run={"User": "new"})
    registry.push("x", new)
    assert ask(registry, tmp_path / "second", cache, "--offline").returncode == 0
    assert ask(registry, tmp_path / "third", cache).returncode == 0
    manifests = [(tmp_path / name / ".provision/manifest.json").read_bytes() for name in ("second", "third")]
    assert manifests == [AMD.manifest, new.manifest]


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 5, done.stderr
    *_, message, hint = done.stderr.splitlines()
    assert "offline: " in message
    assert says in message
    assert hint == "  run once without --offline"


def test_what_is_missing_is_named(registry: ScriptedRegistry, tmp_path: Path, cache: Path) -> None:
    directory = tmp_path / "dir"
    refused(ask(registry, directory, cache, "--offline"), f"the cache doesn't know what {registry.host}/x:latest names")
    digest = builders.digest_of(AMD.manifest)
    refused(ask(registry, directory, cache, "--offline", image=f"x@{digest}"), f"has no manifest {digest} of")
    assert ask(registry, tmp_path / "first", cache).returncode == 0
    arm = ask(registry, directory, cache, "--offline", platform="arm64")
    refused(arm, f"has no manifest {builders.digest_of(ARM.manifest)} of {registry.host}/x")
    for layer in AMD.layers:
        file_of(cache, layer.blob).unlink()
    names = ", ".join(builders.digest_of(layer.blob)[7:19] for layer in AMD.layers)
    size = size_text(sum(len(layer.blob) for layer in AMD.layers))
    refused(ask(registry, directory, cache, "--offline"), f"the cache lacks 2 of 2 layers, {size}: {names}")
    file_of(cache, AMD.config).unlink()
    refused(ask(registry, directory, cache, "--offline"), f"no sound blob {builders.digest_of(AMD.config)}")
    file_of(cache, AMD.manifest).unlink()
    refused(ask(registry, directory, cache, "--offline"), f"no manifest {builders.digest_of(AMD.manifest)}")
    shutil.rmtree(cache / "sha256")
    refused(ask(registry, directory, cache, "--offline"), "no manifest sha256:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "first"]


def test_a_damaged_layer_is_noticed(registry: ScriptedRegistry, tmp_path: Path, cache: Path) -> None:
    """With a network it is fetched again."""
    layer = AMD.layers[0].blob
    assert ask(registry, tmp_path / "first", cache).returncode == 0
    file_of(cache, layer).write_bytes(layer[:-1] + b"?")
    done = ask(registry, tmp_path / "second", cache, "--offline")
    assert done.returncode == 5
    assert f"offline: the cache has no sound blob {builders.digest_of(layer)}" in done.stderr
    assert not (tmp_path / "second").exists()
    file_of(cache, layer).write_bytes(layer[:-1] + b"?")
    assert ask(registry, tmp_path / "second", cache).returncode == 0
    assert file_of(cache, layer).read_bytes() == layer
    assert len(registry.asked(f".*/{builders.digest_of(layer)}")) == 2
