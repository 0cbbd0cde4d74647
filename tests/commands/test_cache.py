"""`provision cache`, and what runs with and without a cache leave in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from provisioner.sizes import size_text
from provisioner.store.prune import list_files, prune
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.cached_files import DAY, NOW, left, put
from tests.support.scripted_registry import Broken, ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, provision, provision_command
from tests.support.waiting import wait_until

IMAGE = builders.small()


def ask(cache: Path, *words: str, config: str = "") -> subprocess.CompletedProcess[str]:
    path = cache.with_suffix(".toml")
    path.write_text(config)
    return provision("cache", *words, cache=cache, env=clean_environment(PROVISION_CONFIG=str(path)), status=0)


@pytest.fixture
def recent(tmp_path: Path) -> Path:
    """A cache with one blob that was used an hour ago, one of 40 days ago, and a partial one."""
    cache = tmp_path / "cache"
    since = time.time() - NOW
    put(cache, f"sha256/{'a' * 64}", 2000, 3700 - since)
    put(cache, f"sha256/{'b' * 64}", 3_000_000, 40 * DAY - since)
    put(cache, f"partial/{'c' * 64}", 5, 41 * DAY - since)
    return cache


def test_ls(recent: Path) -> None:
    for words in ([], ["ls"]):
        done = ask(recent, *words)
        assert done.stdout.splitlines() == [
            "IMAGE            SIZE  LAST USED",
            "3 other files  3.0 MB  1 h ago    of no image that is known here",
        ]
        assert done.stderr == f"3.0 MB in {recent}\n"
    listed = json.loads(ask(recent, "--json", "--quiet").stdout)["files"]
    assert [(entry["kind"], entry["size"]) for entry in listed] == [("blob", 2000), ("blob", 3_000_000), ("partial", 5)]
    assert listed[0]["used"].endswith("Z")
    empty = json.loads(ask(recent / "empty", "ls", "--json").stdout)
    assert empty == {"format": 1, "images": [], "files": []}


@pytest.mark.parametrize(
    ("words", "config", "stays"),
    [
        (["prune"], "", "a"),
        (["prune", "--days", "60"], "", "abc"),
        (["prune", "--days", "60", "--limit", "2kB"], "", "a"),
        (["prune", "--days", "60"], "cache-limit = '1 kB'", ""),
        (["prune", "--days", "60", "--limit", "1GB"], "cache-limit = 0", "abc"),
        (["clear"], "", ""),
    ],
)
def test_prune_and_clear(recent: Path, words: list[str], config: str, stays: str) -> None:
    done = ask(recent, *words, config=config)
    assert left(recent) == stays
    assert done.stdout == ""
    assert f" from {recent}; " in done.stderr
    again = ask(recent, *words, "--json", config=config)
    assert json.loads(again.stdout)["files"] == []


@pytest.mark.parametrize("words", [["rm"], ["prune", "--limit", "much"], ["prune", "--days", "-1"], ["ls", "more"]])
def test_usage(tmp_path: Path, words: list[str]) -> None:
    done = provision("cache", *words, cache=tmp_path, status=2)
    assert len(done.stderr.splitlines()) == 2


def test_a_cache_that_cant_be_read(place: Path) -> None:
    need_root()
    (place / "sha256").mkdir(mode=0)
    command, options = provision_command("cache", cache=place, **as_user())
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 7
    assert done.stderr.startswith(f"provision: read the cache {place}: Permission denied\n")


# Runs


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("x", IMAGE)
    return registry


def install(registry: ScriptedRegistry, directory: Path, *words: str, **options: str) -> tuple[list[str], int, str]:
    """Run `provision x`; what is in its cache afterwards, the exit status, and what is said."""
    cache = directory.parent / "cache"
    env = clean_environment(**options)
    done = provision(*words, "--platform=amd64", f"{registry.host}/x", directory, cache=cache, env=env)
    return [entry.kind for entry in list_files(cache)], done.returncode, done.stderr


def test_a_run_leaves_blobs_documents_and_the_tag(registry: ScriptedRegistry, tmp_path: Path) -> None:
    kinds, status, _ = install(registry, tmp_path / "dir")
    assert status == 0
    assert sorted(kinds) == ["blob"] * 4 + ["tag"]
    [tag] = [entry for entry in list_files(tmp_path / "cache") if entry.kind == "tag"]
    assert tag.name == f"{registry.host}/x:latest -> {builders.digest_of(IMAGE.manifest)}"
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    _, row = ask(tmp_path / "cache", "ls").stdout.splitlines()
    assert row.split() == [f"{registry.host}/x:latest", *size_text(size).split(), "now"]


def test_images_share_layers_and_lose_their_tags(registry: ScriptedRegistry, tmp_path: Path) -> None:
    install(registry, tmp_path / "first")
    layer = IMAGE.layers[0]
    other = builders.image(layer, builders.layer(("new", b"new")))
    registry.push("x", other, "other")
    assert provision("--platform=amd64", f"{registry.host}/x:other", tmp_path / "o", cache=tmp_path / "cache")
    found = json.loads(ask(tmp_path / "cache", "--json").stdout)
    names = {f"{registry.host}/x:latest", f"{registry.host}/x:other"}
    assert {image["name"] for image in found["images"]} == names
    assert {image["shared_size"] for image in found["images"]} == {len(layer.blob)}
    [shared] = [file for file in found["files"] if len(file["images"]) > 1]
    assert (shared["name"], set(shared["images"])) == (builders.digest_of(layer.blob), names)
    assert f"{size_text(len(layer.blob))} shared" in ask(tmp_path / "cache").stdout
    # The tag names another image now.
    registry.push("x", other, "latest")
    install(registry, tmp_path / "again")
    old = builders.digest_of(IMAGE.manifest)
    [row] = [line for line in ask(tmp_path / "cache").stdout.splitlines() if line.startswith(old)]
    assert row.endswith("shared")
    removed = json.loads(ask(tmp_path / "cache", "clear", "--json").stdout)
    assert old in {image["digest"] for image in removed["images"]}


def test_partial_downloads_have_the_names_of_what_they_are(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = IMAGE.layers[1].blob
    registry.on(f".*/{builders.digest_of(layer)}", Response(418))
    registry.on(f".*/{builders.digest_of(layer)}", Broken(200, layer, sent=9), times=1)
    assert install(registry, tmp_path / "dir")[1] == 5
    lines = ask(tmp_path / "cache").stdout.splitlines()
    [row] = [" ".join(line.split()) for line in lines if line.startswith("- ")]
    assert row == f"- layer 2 of 2 9 B now partial of {size_text(len(layer))}"
    assert lines[1].startswith(f"{registry.host}/x:latest "), "the image that it is a part of is above it"
    found = json.loads(ask(tmp_path / "cache", "--json").stdout)
    [part] = [file for file in found["files"] if file["kind"] == "partial"]
    assert (part["part"], part["whole_size"]) == ("layer 2 of 2", len(layer))
    assert part["images"] == [f"{registry.host}/x:latest"]


HOSTILE = (b"{", b'{"layers": 1}', b'{"manifests": [{"digest": 1}]}', b"{" * 99_999, b'{"layers":[],"Layers":[]}')


def test_damaged_and_hostile_documents_are_files_like_others(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for data in HOSTILE:
        put(cache, f"sha256/{hashlib.sha256(data).hexdigest()}", 0, 0).write_bytes(data)
    put(cache, f"tags/{'d' * 64}", 0, 0).write_text('{"reference": "a\\u001b[2Jb", "digest": "sha256:none"}')
    done = ask(cache)
    assert r"a\x1b[2Jb" in done.stdout
    assert "\x1b" not in done.stdout
    assert "4 other files" in done.stdout  # one is an index that names nothing


def test_the_limit_holds_after_each_run(registry: ScriptedRegistry, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    put(tmp_path / "cache", f"sha256/{'a' * 64}", 100_000, DAY)
    config.write_text("cache-limit = '50 kB'")
    kinds, status, said = install(registry, tmp_path / "dir", PROVISION_CONFIG=str(config))
    assert (status, len(kinds)) == (0, 5)
    assert "removed 100.0 kB from the cache, to keep its limit\n" in said
    put(tmp_path / "cache", f"sha256/{'a' * 64}", 100_000, DAY)
    registry.on("/v2/x/manifests/.*", Response(404))
    kinds, status, said = install(registry, tmp_path / "other", PROVISION_CONFIG=str(config))
    assert (status, len(kinds)) == (3, 5)  # also after one that fails
    config.write_text("cache-limit = 0")
    registry.push("x", IMAGE)
    registry.on("/v2/x/manifests/.*", lambda request: None)
    assert install(registry, tmp_path / "third", PROVISION_CONFIG=str(config))[:2] == ([], 0)


def kinds_in(cache: Path) -> list[str]:
    return sorted(entry.kind for entry in list_files(cache))


def test_what_a_run_downloads_is_not_pruned(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = builders.layer(("big", os.urandom(1 << 20)))
    registry.push("x", builders.image(builders.layer(("a", b"a")), layer))
    go_on = threading.Event()
    path = f".*/blobs/{builders.digest_of(layer.blob)}"
    registry.on(path, Broken(200, layer.blob, sent=1 << 19, wait=go_on), times=1)
    cache = tmp_path / "cache"
    words = ["--platform=amd64", f"{registry.host}/x", str(tmp_path / "dir")]
    command, options = provision_command(*words, cache=cache)
    with subprocess.Popen(command, **options) as process:
        expected = ["blob", "blob", "blob", "partial", "tag"]  # the big one is partial
        wait_until(lambda: kinds_in(cache) == expected)
        assert prune(cache, 0) == []
        kinds = kinds_in(cache)
        process.terminate()
        go_on.set()
        process.communicate(timeout=60)
    assert kinds == expected


def test_no_cache_leaves_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    assert install(registry, tmp_path / "dir", "--no-cache")[:2] == ([], 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir"]
    assert sorted(path.name for path in (tmp_path / "dir").iterdir()) == [".provision", "rootfs", "start.sh"]
    # Nor does it use one.
    assert install(registry, tmp_path / "second")[1] == 0
    before = len(registry.asked(".*/blobs/.*"))
    assert install(registry, tmp_path / "third", "--no-cache")[1] == 0
    assert len(registry.asked(".*/blobs/.*")) == before + 3


def test_no_cache_verifies_all_the_same(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = IMAGE.layers[1].blob
    registry.on(f".*/{builders.digest_of(layer)}", Response(200, layer[:-1] + b"?"))
    kinds, status, said = install(registry, tmp_path / "dir", "--no-cache")
    assert (kinds, status) == ([], 6), said
    assert list(tmp_path.iterdir()) == []


def test_no_cache_does_not_promise_to_go_on(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """With a cache, what has come is kept, and said to be."""
    layer = IMAGE.layers[1].blob
    registry.on(f".*/{builders.digest_of(layer)}", Response(418))
    assert "are kept" in install(registry, tmp_path / "dir")[2]
    _, status, said = install(registry, tmp_path / "dir", "--no-cache")
    assert status == 5
    assert "are kept" not in said


def test_what_a_killed_run_without_cache_left_goes_with_the_next(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = IMAGE.layers[1].blob
    registry.on(f".*/{builders.digest_of(layer)}", Broken(200, layer, sent=9, wait=threading.Event()), times=1)
    words = ["--no-cache", "--platform=amd64", f"{registry.host}/x", str(tmp_path / "dir")]
    command, options = provision_command(*words, cache=tmp_path / "cache")
    with subprocess.Popen(command, **options) as process:
        wait_until(lambda: registry.asked(f".*/{builders.digest_of(layer)}"))
        process.kill()
        process.communicate(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == [".dir.provision"]
    assert install(registry, tmp_path / "dir", "--no-cache")[:2] == ([], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]
