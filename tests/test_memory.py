"""Runs with too little memory: they succeed, or end in one clear line and status 7, in whatever thread or process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
        env=clean_environment(),
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
