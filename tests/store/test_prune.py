"""Files of the cache: which are listed, which are pruned, and which must stay."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.prune import cache_directory, delete_unused, in_use, list_files, prune
from tests.support.cached_files import DAY, NOW, left, names, put
from tests.support.tools import as_user, need_root, provision_command


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with blobs of 100 bytes and a partial one."""
    directory = tmp_path / "cache"
    for name, age in (("a", 1), ("b", 2), ("c", 3)):
        put(directory, f"sha256/{name * 64}", 100, age * DAY)
    put(directory, f"partial/{'d' * 64}", 50, 4 * DAY)
    return directory


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROVISION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache/provision"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/provision")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_directory() == tmp_path / ".cache/provision"
    monkeypatch.setenv("PROVISION_CACHE_DIR", "~/downloads")  # make expands no ~
    assert cache_directory() == tmp_path / "downloads"


def test_what_was_used_last_is_first(cache: Path) -> None:
    found = list_files(cache)
    assert names(found) == "abcd"
    assert [entry.size for entry in found] == [100, 100, 100, 50]
    assert [entry.kind for entry in found] == ["blob"] * 3 + ["partial"]
    assert found[0].name == f"sha256:{'a' * 64}"
    assert found[0].used == NOW - DAY
    assert list_files(cache / "nothing here") == []


def test_what_killed_runs_have_left_is_pruned_whatever_its_age(cache: Path) -> None:
    put(cache, f"partial/.{'e' * 64}.left", 100, DAY)
    put(cache, f"partial/.{'f' * 64}.locked", 100, DAY)
    with open(cache / f"partial/.{'f' * 64}.locked", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [entry.path.name for entry in prune(cache, None, NOW - 30 * DAY)] == [f".{'e' * 64}.left"]
    assert left(cache) == ".abcd"


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
    with in_use(CacheDirectory(cache)):
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
    listed = list_files(cache)
    os.utime(listed[1].path)
    assert [delete_unused(CacheDirectory(cache), entry) for entry in listed] == [True, False, True, True]
    assert [path.name[0] for path in (cache / "sha256").iterdir()] == ["b"]


def test_threads_may_prune_at_once(cache: Path) -> None:
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
    assert list_files(cache)[-1].kind == "partial"
    prune(cache, 350)
    assert left(cache) == "abcd"


def test_a_cache_that_cant_be_written_is_used_all_the_same(place: Path) -> None:
    need_root()
    cache = place / "theirs"
    put(cache, f"sha256/{'a' * 64}", 1, DAY)
    script = f"""
from pathlib import Path
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.prune import in_use
from provisioner.store.prune import prune
from provisioner.errors import MachineError
with in_use(CacheDirectory(Path({str(cache)!r}))):
    print("used")
try:
    prune(Path({str(cache)!r}), 0)
except MachineError as error:
    print(error.message)
"""
    command, options = provision_command(cache=cache, **as_user())
    done = subprocess.run([command[0], "-c", script], check=False, **options)
    assert done.stdout == f"used\nclean the cache {cache}: Permission denied\n", done.stderr
