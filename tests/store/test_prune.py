"""Housekeeping in the cache, and `provision cache`: what is listed, what is taken away, and what must not be."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.store.prune import CachedFile, cache_directory, delete_unused, entries, in_use, prune
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Broken, ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, provision, provision_command

NOW = 1_700_000_000
DAY = 86400
IMAGE = builders.small()


def put(cache: Path, name: str, size: int, age: float) -> Path:
    """A file of the cache that was last used `age` seconds before NOW."""
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age, NOW - age))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with blobs of 100 bytes and a partial one."""
    directory = tmp_path / "cache"
    for name, age in (("a", 1), ("b", 2), ("c", 3)):
        put(directory, f"sha256/{name * 64}", 100, age * DAY)
    put(directory, f"partial/{'d' * 64}", 50, 4 * DAY)
    return directory


def names(found: list[CachedFile]) -> str:
    """The first letter of each file's name."""
    return "".join(entry.path.name[0] for entry in found)


def left(cache: Path) -> str:
    return names(entries(cache))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROVISION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache/provision"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/provision")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_directory() == tmp_path / ".cache/provision"


def test_what_was_used_last_is_first(cache: Path) -> None:
    found = entries(cache)
    assert names(found) == "abcd"
    assert [entry.size for entry in found] == [100, 100, 100, 50]
    assert [entry.kind for entry in found] == ["blob"] * 3 + ["partial"]
    assert found[0].name == f"sha256:{'a' * 64}"
    assert found[0].used == NOW - DAY
    assert entries(cache / "nothing here") == []


@pytest.mark.parametrize(
    ("limit", "unused_since", "stays"),
    [
        (None, None, "abcd"),
        (350, None, "abcd"),
        (349, None, "abc"),
        (300, None, "abc"),
        (200, None, "ab"),
        (99, None, ""),
        (0, None, ""),
        (None, NOW - 2.5 * DAY, "ab"),
        (100, NOW - 2.5 * DAY, "a"),
    ],
)
def test_the_least_recently_used_goes_first(
    cache: Path, limit: int | None, unused_since: float | None, stays: str
) -> None:
    assert names(prune(cache, limit, unused_since)) == "".join(reversed("abcd".removeprefix(stays)))
    assert left(cache) == stays


def test_what_is_locked_stays(cache: Path) -> None:
    with (cache / "partial" / ("d" * 64)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        prune(cache, 0)
        assert left(cache) == "d"
    prune(cache, 0)
    assert left(cache) == ""


def test_what_a_run_at_work_has_used_stays(tmp_path: Path, cache: Path) -> None:
    with in_use(cache):
        os.utime(cache / "sha256" / ("c" * 64))
        prune(cache, 0)
        assert left(cache) == "c"
    prune(cache, 0)
    assert left(cache) == ""
    assert list((cache / "runs").iterdir()) == []


def test_a_dead_run_holds_nothing(cache: Path) -> None:
    put(cache, "runs/dead", 0, 9 * DAY)
    assert len(prune(cache, 0)) == 4
    assert list((cache / "runs").iterdir()) == []


def test_what_was_used_since_it_was_listed_stays(cache: Path) -> None:
    listed = entries(cache)
    os.utime(listed[1].path)
    assert [delete_unused(entry) for entry in listed] == [True, False, True, True]
    assert [path.name[0] for path in (cache / "sha256").iterdir()] == ["b"]


def test_two_that_prune_at_once_are_friends(cache: Path) -> None:
    for number in range(200):
        put(cache, f"sha256/{number:064}", 1, DAY)
    failures: list[Exception] = []

    def work() -> None:
        try:
            prune(cache, 0)
        except (OSError, MachineError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert left(cache) == ""


def test_links_are_not_followed(cache: Path, tmp_path: Path) -> None:
    outside = put(tmp_path, "outside", 1, 9 * DAY)
    (cache / "sha256" / ("e" * 64)).symlink_to(outside)
    (cache / "sha512").symlink_to(tmp_path)
    prune(cache, 0)
    assert outside.exists()
    assert (cache / "sha256" / ("e" * 64)).is_symlink()


def test_what_a_killed_writer_left_counts_as_partial(cache: Path) -> None:
    put(cache, f"tags/.{'e' * 64}.x1_y", 7, 5 * DAY)
    assert entries(cache)[-1].kind == "partial"
    prune(cache, 350)
    assert left(cache) == "abcd"


def test_a_cache_that_cant_be_written_is_used_all_the_same(place: Path) -> None:
    need_root()
    cache = place / "theirs"
    put(cache, f"sha256/{'a' * 64}", 1, DAY)
    script = f"""
from pathlib import Path
from provisioner.store.prune import in_use
from provisioner.store.prune import prune
from provisioner.errors import MachineError
with in_use(Path({str(cache)!r})):
    print("used")
try:
    prune(Path({str(cache)!r}), 0)
except MachineError as error:
    print(error.message)
"""
    command, options = provision_command(cache=cache, **as_user())
    done = subprocess.run([command[0], "-c", script], check=False, **options)
    assert done.stdout == f"used\nclean the cache {cache}: Permission denied\n", done.stderr


# The command


def ask(cache: Path, *words: str, config: str = "") -> subprocess.CompletedProcess[str]:
    path = cache.with_suffix(".toml")
    path.write_text(config)
    done = provision("cache", *words, cache=cache, env=clean_environment(PROVISION_CONFIG=str(path)))
    assert done.returncode == 0, done.stderr
    return done


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
            f"   2.0 kB   1 h ago  sha256:{'a' * 64}",
            f"   3.0 MB  40 d ago  sha256:{'b' * 64}",
            f"      5 B  41 d ago  {'c' * 64} (partial)",
        ]
        assert done.stderr == f"3.0 MB in {recent}\n"
    listed = json.loads(ask(recent, "--json", "--quiet").stdout)
    assert [(entry["kind"], entry["size"]) for entry in listed] == [("blob", 2000), ("blob", 3_000_000), ("partial", 5)]
    assert listed[0]["used"].endswith("Z")
    assert ask(recent / "empty", "ls", "--json").stdout == "[]\n"


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
    assert json.loads(again.stdout) == []


@pytest.mark.parametrize("words", [["rm"], ["prune", "--limit", "much"], ["prune", "--days", "-1"], ["ls", "more"]])
def test_usage(tmp_path: Path, words: list[str]) -> None:
    done = provision("cache", *words, cache=tmp_path)
    assert done.returncode == 2
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
    return [entry.kind for entry in entries(cache)], done.returncode, done.stderr


def test_a_run_leaves_blobs_documents_and_the_tag(registry: ScriptedRegistry, tmp_path: Path) -> None:
    kinds, status, _ = install(registry, tmp_path / "dir")
    assert status == 0
    assert sorted(kinds) == ["blob"] * 4 + ["tag"]
    [tag] = [entry for entry in entries(tmp_path / "cache") if entry.kind == "tag"]
    assert tag.name == f"{registry.host}/x:latest -> {builders.digest_of(IMAGE.manifest)}"
    assert f"{registry.host}/x:latest -> sha256:" in ask(tmp_path / "cache", "ls").stdout


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
    return sorted(entry.kind for entry in entries(cache))


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
        deadline = time.monotonic() + 20
        expected = ["blob", "blob", "blob", "partial", "tag"]  # the big one is partial
        while kinds_in(cache) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert prune(cache, 0) == []
        kinds = kinds_in(cache)
        process.terminate()
        go_on.set()
        process.communicate(timeout=20)
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
        deadline = time.monotonic() + 20
        while not registry.asked(f".*/{builders.digest_of(layer)}") and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=20)
    assert [path.name for path in tmp_path.iterdir()] == [".dir.provision"]
    assert install(registry, tmp_path / "dir", "--no-cache")[:2] == ([], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]
