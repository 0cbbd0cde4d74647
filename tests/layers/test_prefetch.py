from __future__ import annotations

import gzip
import hashlib
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from provisioner.errors import MalformedImage, NetworkError, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.image import Layer
from provisioner.image.manifest import Descriptor
from provisioner.layers.apply import LayerApplier
from provisioner.layers.layer_archive import open_archive
from provisioner.layers.prefetch import Prefetcher
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support import builders
from tests.support.archives import END, raw
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import CHECKOUT, clean_environment
from tests.support.waiting import wait_until


def test_all_items_come_in_their_order() -> None:
    with Prefetcher(iter(range(1000)), 3) as items:
        assert list(items) == list(range(1000))


def test_it_starts_at_once_and_runs_at_most_depth_items_ahead() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    with Prefetcher(items(), 3) as prefetcher:
        wait_until(lambda: len(produced) == 4)  # three wait, and one is at hand
        time.sleep(0.05)
        assert len(produced) == 4
        assert next(iter(prefetcher)) == 0
        wait_until(lambda: len(produced) == 5)


def test_an_error_is_raised_in_the_reader_after_the_items_before_it() -> None:
    error = KeyError("mine")

    def items() -> Iterator[int]:
        yield 1
        raise error

    got: list[int] = []
    with pytest.raises(KeyError) as caught, Prefetcher(items(), 3) as prefetcher:
        got.extend(prefetcher)
    assert caught.value is error
    assert got == [1]


def test_leaving_early_lets_the_thread_end() -> None:
    before = set(threading.enumerate())
    with Prefetcher(itertools.repeat(1), 2) as prefetcher:
        assert next(iter(prefetcher)) == 1
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_a_stage_between_two_ends_with_them_and_closes_its_iterator() -> None:
    """Leaving while the first stage waits for its source: all threads end after the next item."""
    before, source, closed = set(threading.enumerate()), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            source.wait()
            yield 2
        finally:
            closed.set()

    with Prefetcher(items(), 1) as first, Prefetcher(iter(first), 1) as second:
        assert next(iter(second)) == 1
    source.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert closed.wait(60)


# All stages of a layer

FINE = builders.layer(("file", b"1" * 10_000), ("other", b"2"))


def described(layer: builders.Layer) -> Layer:
    descriptor = Descriptor(layer.media_type, Digest.parse(builders.digest_of(layer.blob)), len(layer.blob))
    return Layer(descriptor, Digest.parse(layer.diff_id))


def unpack(blob: Iterable[bytes], root: Path, layer: builders.Layer = FINE) -> None:
    root.mkdir()
    with Tree(root) as tree, open_archive(described(layer), iter(blob)) as archive:
        LayerApplier(tree, Ownership(False)).apply(archive)


def failing(error: ProvisionError) -> Iterator[bytes]:
    yield FINE.blob[:40]
    raise error


BAD_ARCHIVE = gzip.compress(raw(b"../x") + END)
STAGES: dict[str, tuple[Callable[[], Iterator[bytes]], builders.Layer, type[ProvisionError], str]] = {
    "download": (partial(failing, NetworkError("the line is dead")), FINE, NetworkError, "^the line is dead$"),
    "decompress": (
        lambda: iter([FINE.blob[:40] + bytes(1000)]),
        FINE,
        MalformedImage,
        "^the layer can't be decompressed",
    ),
    "hash": (
        lambda: iter([FINE.blob]),
        replace(FINE, diff_id=builders.digest_of(b"")),
        MalformedImage,
        "^the archive does not match",
    ),
    "write": (lambda: iter([BAD_ARCHIVE]), FINE, MalformedImage, r"^\.\./x: .* climbs out"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_in_any_stage_is_raised_once_and_no_thread_is_left(
    stage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blob, layer, kind, message = STAGES[stage]
    before = set(threading.enumerate())
    with pytest.raises(kind, match=message):
        unpack(blob(), tmp_path / "root", layer)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert capfd.readouterr() == ("", "")


def silent(ended: threading.Event) -> Iterator[bytes]:
    yield FINE.blob[:20]
    ended.wait()


def endless(content: bytes, behind: bytes, ended: threading.Event) -> Iterator[bytes]:
    yield content
    while not ended.is_set():
        yield behind


BLOCK = gzip.compress(bytes(1 << 20))
NEVER_ENDS: dict[str, Callable[[threading.Event], Iterator[bytes]]] = {
    "download": silent,
    # A byte at a time: zeros behind the end have a limit.
    "hash": partial(endless, gzip.compress(END), gzip.compress(bytes(1))),
    "write": partial(endless, gzip.compress(raw(b"f", size=b"\x80\0\0\x7f" + bytes(8))), BLOCK),
    "entries": partial(endless, b"", gzip.compress(raw(b"f", content=b"1"))),
}


@pytest.mark.parametrize("stage", NEVER_ENDS)
@pytest.mark.slow
def test_ctrl_c_ends_every_stage(stage: str, tmp_path: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def interrupt_when_all_stages_run() -> None:
        wait_until(is_applying)
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    before, ended = set(threading.enumerate()), threading.Event()
    handler = signal.signal(signal.SIGALRM, interrupt)
    interrupter = threading.Thread(target=interrupt_when_all_stages_run)
    try:
        started = time.monotonic()
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            unpack(NEVER_ENDS[stage](ended), tmp_path / "root")
        assert time.monotonic() - started < 100
    finally:
        interrupter.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        ended.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def is_applying() -> bool:
    """Return whether the main thread applies an archive, so that all threads before it have been started."""
    main = sys._current_frames()[threading.main_thread().ident or 0]
    return any(frame.f_code is LayerApplier.apply.__code__ for frame, _ in traceback.walk_stack(main))


# Memory

PROGRAM = """
import resource
import sys
from pathlib import Path
from provisioner.cli import main
status = main(sys.argv[1:])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("below", [0, 1])
def test_the_memory_does_not_grow_with_a_layer(compression: builders.Compression, below: int, place: Path) -> None:
    """A layer of 300 MiB, whose half can't be compressed: at most 96 MiB, the limit of `make bench`.

    A worker process unpacks it, in the lowest place or above another one.
    """
    block = random.Random(1).randbytes(1 << 19) + bytes(1 << 19)
    head = raw(b"large", size=b"%011o\0" % (300 << 20))
    packed = builders.compressed(block, compression)
    blob = builders.compressed(head, compression) + packed * 300
    hasher = hashlib.sha256(head)
    for _ in range(300):
        hasher.update(block)
    media_type = f"{builders.OCI_LAYER}+{compression}"
    with ScriptedRegistry() as registry:
        layer = builders.Layer(blob, media_type, f"sha256:{hasher.hexdigest()}")
        registry.push("image", builders.image(*[FINE] * below, layer))
        environment = {**clean_environment(), "PYTHONPATH": str(CHECKOUT), "PROVISION_CACHE_DIR": str(place / "cache")}
        words = [f"{registry.host}/image", str(place / "dir"), "--platform=amd64", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False, env=environment
        )
    assert done.returncode == 0, done.stderr
    assert (place / "dir/rootfs/large").stat().st_size == 300 << 20
    for peak in done.stdout.split():
        assert int(peak) < 96 << 10
