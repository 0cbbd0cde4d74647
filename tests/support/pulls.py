"""Pulls in separate processes: killed, in parallel, on a slow line. For tests and for `make bench-faults`."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.support import builders
from tests.support.faults import check_cache
from tests.support.scripted_registry import Link, ScriptedRegistry
from tests.support.tools import provision_command
from tests.support.waiting import wait_until

BLOBS = "/v2/x/blobs/"


@dataclass(frozen=True)
class KillReport:
    """The result of `kill_pulls`."""

    kills: int
    """How many runs were killed."""
    rounds: int
    """How many runs completed after them."""
    most_lost: int
    """The most bytes of one blob that one kill lost."""
    sent: int
    """Bytes of blobs that the registry sent in all."""
    size: int
    """Bytes of blobs that it would have sent without kills."""


@contextmanager
def served(image: builders.Image, speed: float | None = None) -> Iterator[ScriptedRegistry]:
    """Run a registry with `image` as `x`, limited to `speed` bytes a second."""
    with ScriptedRegistry() as registry:
        registry.push("x", image)
        registry.link = Link(speed) if speed else None
        yield registry


def pull(registry: ScriptedRegistry, directory: Path, cache: Path) -> subprocess.Popen[str]:
    """Start `provision x DIRECTORY`."""
    command, options = provision_command(
        "--quiet", "--platform=linux/amd64", f"{registry.host}/x", directory, cache=cache
    )
    return subprocess.Popen(command, **options)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a pull. AssertionError unless it succeeds without a message."""
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages
    assert messages == ""


def random_image(*sizes: int) -> builders.Image:
    """Return an image of layers with a file `dataN` of each of these sizes, in bytes."""
    return builders.image(
        builders.layer(("etc", None), ("etc/os-release", b"ID=tiny\n")),
        *(builders.layer((f"data{n}", builders.incompressible(size, n))) for n, size in enumerate(sizes)),
    )


def kill_pulls(kills: int, place: Path, seed: int = 0) -> KillReport:
    """Kill up to four runs with the same cache at random moments, let the next run finish, and repeat.

    AssertionError unless that run completes, and the cache is whole then.
    """
    chance = random.Random(seed)
    sizes = (1_500_000, 900_000, 400_000)
    image = random_image(*sizes)
    done = rounds = most = sent = 0
    while done < kills:
        rounds += 1
        cache = place / f"cache{rounds}"
        with served(image, speed=4e6) as registry:
            registry.is_read_along = True
            before = dict.fromkeys(image.blobs, 0)
            for _ in range(min(chance.randint(1, 4), kills - done)):
                done += 1
                asked = len(registry.requests)
                process = pull(registry, place / "directory", cache)
                while len(registry.requests) == asked and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0.0, 0.9))  # the bare download takes 0.7 s
                process.kill()
                process.communicate()
                wait_until(lambda: not registry.is_sending)
                for blob in image.blobs:
                    most = max(most, registry.sent[path(blob)] - before[blob] - cached_size(cache, blob))
                    before[blob] = registry.sent[path(blob)] - cached_size(cache, blob)
            finish(pull(registry, place / "directory", cache))
            for number, size in enumerate(sizes):
                data = (place / f"directory/rootfs/data{number}").read_bytes()
                assert data == builders.incompressible(size, number)
            assert [entry.name for entry in (cache / "partial").iterdir()] == []
            assert len(list((cache / "sha256").iterdir())) == len(image.blobs) + 1  # and the manifest
            check_cache(cache)
            sent += sum(registry.sent[path(blob)] for blob in image.blobs)
        shutil.rmtree(cache)
        shutil.rmtree(place / "directory")
    return KillReport(done, rounds, most, sent, rounds * sum(map(len, image.blobs)))


def path(blob: bytes) -> str:
    """Return the path of a blob in URLs."""
    return BLOBS + builders.digest_of(blob)


def cached_size(cache: Path, blob: bytes) -> int:
    """Return the number of bytes of a blob in a cache."""
    name = builders.digest_of(blob).removeprefix("sha256:")
    sizes = [file.stat().st_size for file in (cache / "sha256" / name, cache / "partial" / name) if file.exists()]
    return max(sizes, default=0)


def pull_at_once(count: int, place: Path) -> None:
    """Pull an image with `count` processes into as many directories. AssertionError unless each blob is sent once."""
    image = random_image(1_500_000, 900_000, 400_000)
    with served(image, speed=4e6) as registry:
        processes = [pull(registry, place / f"directory{number}", place / "cache") for number in range(count)]
        for process in processes:
            finish(process)
        for blob in image.blobs:
            assert len(registry.asked(path(blob))) == 1
            assert registry.sent[path(blob)] == len(blob)
    for number in range(count):
        assert (place / f"directory{number}/rootfs/data0").stat().st_size == 1_500_000


@dataclass(frozen=True)
class SlowLine:
    """The result of `time_slow_line`."""

    size: int
    """Bytes of all blobs."""
    bare: float
    """Seconds for the download of all blobs, four at a time."""
    job: float
    """Seconds for `provision`."""


def time_slow_line(layers: int, layer_size: int, speed: float, place: Path) -> SlowLine:
    """Time the download of an image's blobs and `provision`, at `speed` bytes a second."""
    image = builders.image(
        *(builders.layer(*text_files(n, layer_size), compression="gzip") for n in range(layers)),
    )
    with served(image, speed) as registry:
        urls = [f"{registry.url}{path(blob)}" for blob in image.blobs]

        def download(url: str) -> int:
            with requests.get(url, stream=True, timeout=60) as response:
                return sum(map(len, response.iter_content(1 << 18)))

        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            size = sum(pool.map(download, urls))
        bare = time.monotonic() - began
        began = time.monotonic()
        finish(pull(registry, place / "directory", place / "cache"))
        return SlowLine(size, bare, time.monotonic() - began)


def text_files(seed: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield files of 200 kB, `size` bytes in all, which compression halves."""
    chance = random.Random(seed)
    for number in range(size // 200_000):
        yield f"file{seed}-{number}", chance.randbytes(100_000).hex().encode()


def time_ranges(count: int, size: int, speed: float, *, shared: bool) -> float:
    """Return the seconds to download a blob in `count` ranges at once, at `speed` in all, or each unless `shared`."""
    blob = bytes(size)
    with served(builders.image()) as registry:
        registry.add_blob("x", blob)
        registry.link = Link(speed) if shared else None
        registry.link_of_each = None if shared else speed

        def download(first: int) -> int:
            last = first + size // count - 1
            headers = {"Range": f"bytes={first}-{last}"}
            with requests.get(f"{registry.url}{path(blob)}", headers=headers, stream=True, timeout=60) as response:
                return sum(map(len, response.iter_content(1 << 18)))

        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            assert sum(pool.map(download, range(0, size, size // count))) == size
        return time.monotonic() - began
