"""Runs with too little memory: they succeed, or end in one clear line and status 7, in whatever thread or process."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provisioner.archives.compression import decompress
from provisioner.errors import MachineError, MalformedImage, lacks_resources
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.workers import Workers
from tests.support import archives, builders
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.spooled import SpooledBlob
from tests.support.tools import CHECKOUT, clean_environment, need, provision_command

MIB = 1 << 20
KINDS: tuple[builders.Compression, ...] = ("gzip", "gzip", "gzip", "zstd")
LAYERS = [
    builders.layer(
        *((f"{number}/{name}", builders.incompressible(20_000, 1000 * number + name)) for name in range(100)),
        compression=kind,
    )
    for number, kind in enumerate(KINDS)
]


@pytest.fixture(scope="module")
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("x", builders.image(*LAYERS))
        yield served


@pytest.mark.slow
@pytest.mark.parametrize("limit", range(120_000, 500_001, 38_000))
def test_every_limit_ends_in_success_or_in_words(registry: ScriptedRegistry, tmp_path: Path, limit: int) -> None:
    """Four processes with several threads each: which one meets the limit first differs from run to run."""
    need("sh")
    command, options = provision_command(
        f"{registry.host}/x",
        "--platform=linux/amd64",
        tmp_path / "parent/container",
        "--no-sync",
        cache=tmp_path / "cache",
    )
    limited = ["sh", "-c", f'ulimit -v {limit}; exec "$@"', "sh", *command]
    done = subprocess.run(limited, check=False, timeout=120, **options)
    if done.returncode == 0:
        return
    messages = [line for line in done.stderr.splitlines() if not line.startswith(("provision 127.", "unpack "))]
    assert done.returncode == 7, done.stderr
    assert len(messages) == 2, done.stderr
    assert re.search("there is not enough memory|may have no more processes and threads", messages[0])
    assert "ulimit -" in messages[1]
    assert not (tmp_path / "parent").exists()
    assert staging_below(tmp_path) == []


def rootfs(kind: str, count: int) -> Iterator[bytes]:
    """Yield the archive of a root file system with so many files, or empty directories."""
    for number in range(count):
        if number % 1000 == 0:
            yield archives.raw(b"%d" % (number // 1000), tarfile.DIRTYPE, mode=b"0000755")
        path = b"%d/%d" % (number // 1000, number % 1000)
        if kind == "files":
            yield archives.raw(path, content=b"%d" % number)
        else:
            yield archives.raw(path, tarfile.DIRTYPE, mode=b"0000755", mtime=b"%011o" % number)
    yield archives.END


def peaks_of(command: list[str], options: dict[str, Any]) -> tuple[int, int]:
    """Run a command. Return the most memory of all its processes together, and of the largest, in bytes (PSS)."""
    together = largest = 0
    with subprocess.Popen(command, **options) as process:
        while process.poll() is None:
            sizes = list(pss_of(process.pid))
            together, largest = max(together, sum(sizes)), max([largest, *sizes])
            time.sleep(0.01)
        assert process.stderr
        assert process.returncode == 0, process.stderr.read()
    return together, largest


def pss_of(process: int) -> Iterator[int]:
    """Yield the proportional set size of a process and of all its descendants, in bytes (proc(5))."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        yield int(found[1]) << 10 if found else 0
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from pss_of(int(child))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "directories"])
def test_a_layer_of_many_files_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """With a million, all processes together have to stay below 160 MiB, and each below 64."""
    counts, peaks = (5_000, 55_000), []
    for count in counts:
        archive = tmp_path / f"{count}.tar"
        archive.write_bytes(b"".join(rootfs(kind, count)))
        target = tmp_path / f"{count}"
        peaks.append(peaks_of(*provision_command(f"rootfs:{archive}", target, "--no-sync", cache=tmp_path / "cache")))
    (together, largest), (more_together, more_of_largest) = peaks
    assert more_together < 100 * MIB
    assert more_of_largest < 56 * MIB
    more = counts[1] - counts[0]
    assert more_together - together < 400 * more
    assert more_of_largest - largest < 250 * more


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so.1: failed to map segment from shared object"),
        RuntimeError("MemoryError: Cannot allocate memory"),
    ],
)
def test_each_way_to_say_it_is_known(error: Exception) -> None:
    shortage = lacks_resources(error)
    assert shortage
    assert (shortage.status, shortage.message) == (7, "there is not enough memory")


@pytest.mark.parametrize("error", [OSError(5, "no"), ImportError("no module named x"), ValueError("x"), RuntimeError()])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert lacks_resources(error) is None


def test_a_worker_process_without_memory(tmp_path: Path) -> None:
    def work(number: int, chunks: Iterator[bytes]) -> Iterator[int]:
        yield len(b"".join(chunks))
        raise MemoryError

    with Workers(1, work) as workers:
        workers.begin({0: SpooledBlob([b"abc"])})
        results = workers.results(0)
        assert next(results) == 3
        with pytest.raises(MachineError, match="there is not enough memory"):
            next(results)


def test_what_feeds_a_worker_without_memory() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise MemoryError

    def work(number: int, received: Iterator[bytes]) -> Iterator[int]:
        yield from map(len, received)

    with Workers(1, work) as workers:
        workers.begin({0: SpooledBlob(chunks())})
        with pytest.raises(MemoryError):
            list(workers.results(0))


def test_the_reader_of_a_stage_without_memory_gets_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise MemoryError

    with Prefetcher(items(), 2) as stage, pytest.raises(MemoryError):
        list(stage)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("stderr", "error", "message"),
    [
        ("error 11 : Allocation error : not enough memory", MachineError, "there is not enough memory"),
        ("Frame requires too much memory for decoding", MalformedImage, "can't be decompressed"),
    ],
)
def test_a_layer_that_can_not_be_decompressed_for_lack_of_memory_is_not_called_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stderr: str, error: type[Exception], message: str
) -> None:
    """The program zstd has messages of its own for that, and for frames that are too large for everyone."""
    blob = builders.compressed(archives.tar(("x", b"1")), "zstd")
    (tmp_path / "zstd").write_text(f"#!/bin/sh\ncat >/dev/null\necho 'zstd: {stderr}' >&2\nexit 11\n")
    (tmp_path / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match=message):
        list(decompress(iter([blob]), "layer.tar+zstd"))


THREAD = """
import resource, sys
from provisioner.threads import BackgroundThread

taken = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 20), taken + (4 << 20)))
try:
    BackgroundThread(print, "x").start()
except MemoryError:
    print("no memory")
"""


def test_a_thread_without_memory_is_refused_at_once() -> None:
    """Python alone may wait for ever for a thread that can't begin."""
    done = subprocess.run(
        [sys.executable, "-c", THREAD],
        env={**clean_environment(), "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("no memory\n", "")
