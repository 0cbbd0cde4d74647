"""Downloads into the cache: what is kept there, what is not, and what readers get meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.store.blobs import BlobCache
from provisioner.store.download import Download, Unverified, downloading, fetch_blob
from tests.support.blobs import CHUNKS, DATA, PARTIAL, ScriptedSource, described, files, whole
from tests.support.waiting import wait_until


class Giving(ScriptedSource):
    """Serves what a function gives."""

    def __init__(self, give: Callable[[Descriptor], Iterator[bytes]]) -> None:
        super().__init__()
        self.give = give

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        yield from self.give(descriptor)


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def test_a_blob_is_kept_and_asked_for_once(cache: BlobCache) -> None:
    source = ScriptedSource(*CHUNKS)
    assert fetch_blob(described(), cache, source) == DATA
    assert fetch_blob(described(), cache, source) == DATA
    assert source.asked == 1
    assert files(cache) == [whole()]
    assert cache.path(Digest.of(DATA)).read_bytes() == DATA


def test_an_empty_blob(cache: BlobCache) -> None:
    assert fetch_blob(described(b""), cache, ScriptedSource()) == b""
    assert files(cache) == [whole(b"")]


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ([DATA[:-1]], "ends after"),
        ([DATA, b"x"], "has more than"),
        ([b"x" + DATA[1:]], "does not match its digest"),
        ([], "ends after 0"),
    ],
)
def test_what_is_not_what_its_digest_says_is_not_kept(cache: BlobCache, chunks: list[bytes], why: str) -> None:
    with pytest.raises(MalformedImage, match=f"^blob {Digest.of(DATA).short} {why}"):
        fetch_blob(described(), cache, ScriptedSource(*chunks))
    assert files(cache) == []


def test_no_more_is_taken_than_was_announced(cache: BlobCache) -> None:
    endless = iter(lambda: b"x" * 1000, b"")
    with pytest.raises(MalformedImage, match="more than"):
        fetch_blob(described(), cache, Giving(lambda _: endless))


@pytest.mark.parametrize("error", [NetworkError("the link is dead"), KeyError("a mistake of ours")])
def test_what_goes_wrong_underway_reaches_the_reader(cache: BlobCache, error: Exception) -> None:
    """Also what nobody has thought of: it has to end up where errors are shown, not in a thread's traceback."""
    download = Download(described(), cache, ScriptedSource(*CHUNKS[:2], error=error), lambda count: None)
    with downloading([download], 1), pytest.raises(type(error)) as caught:
        list(download.chunks())
    assert caught.value is error
    assert files(cache) == [PARTIAL]


def test_a_damaged_blob_is_fetched_again(cache: BlobCache) -> None:
    source = ScriptedSource(*CHUNKS)
    fetch_blob(described(), cache, source)
    for damage in (b"", b"x" + DATA[1:], DATA[:-1], DATA + b"x"):
        cache.path(Digest.of(DATA)).write_bytes(damage)
        assert fetch_blob(described(), cache, source) == DATA
    assert source.asked == 5
    assert files(cache) == [whole()]


def test_a_lie_about_the_size_costs_nothing_that_is_sound(cache: BlobCache) -> None:
    source = ScriptedSource(*CHUNKS)
    fetch_blob(described(), cache, source)
    with pytest.raises(MalformedImage, match=f"has {len(DATA)} bytes, 5 were announced"):
        fetch_blob(described(size=5), cache, source)
    assert source.asked == 1
    assert files(cache) == [whole()]


def test_use_is_noted(cache: BlobCache) -> None:
    fetch_blob(described(), cache, ScriptedSource(*CHUNKS))
    os.utime(cache.path(Digest.of(DATA)), (0, 0))
    fetch_blob(described(), cache, ScriptedSource())
    assert time.time() - cache.path(Digest.of(DATA)).stat().st_mtime < 60


def test_what_a_killed_run_left_is_taken_over(cache: BlobCache) -> None:
    left = cache.path(Digest.of(DATA)).parent.parent / "partial" / Digest.of(DATA).hex
    left.parent.mkdir(parents=True)
    left.write_bytes(DATA[:150_001])
    source = ScriptedSource(*CHUNKS)
    counts: list[int] = []
    download = Download(described(), cache, source, counts.append)
    with downloading([download], 1):
        assert b"".join(download.chunks()) == DATA
    assert source.starts == [150_001]
    assert (counts[0], sum(counts)) == (150_001, len(DATA))
    assert files(cache) == [whole()]


def test_what_was_left_whole_is_not_asked_for(cache: BlobCache) -> None:
    left_behind(cache, DATA)
    source = ScriptedSource(*CHUNKS)
    assert fetch_blob(described(), cache, source) == DATA
    assert source.asked == 0


@pytest.mark.parametrize("left", [b"garbage", b"garbage" * 10**6, DATA[:-1] + b"x", DATA + b"x", b"x" + DATA[1:50_000]])
def test_what_was_left_wrong_is_fetched_from_its_start(cache: BlobCache, left: bytes) -> None:
    left_behind(cache, left)
    counts: list[int] = []
    download = Download(described(), cache, source := ScriptedSource(*CHUNKS), counts.append)
    download.run()
    assert b"".join(download.chunks()) == DATA
    download.close()
    assert source.starts[-1] == 0
    assert sum(counts) == len(DATA)
    assert files(cache) == [whole()]


def left_behind(cache: BlobCache, data: bytes) -> None:
    """Put there what a killed run may have left."""
    left = cache.path(Digest.of(DATA)).parent.parent / PARTIAL
    left.parent.mkdir(parents=True)
    left.write_bytes(data)


def test_what_has_been_read_is_not_replaced(cache: BlobCache) -> None:
    """What a reader has open keeps its content; it has to read again, and then gets nothing wrong."""
    left_behind(cache, b"x" + DATA[1:50_000])
    source = ScriptedSource(*CHUNKS, gates=[threading.Event()])
    download = Download(described(), cache, source, lambda count: None)
    with downloading([download], 1):
        chunks = download.chunks()
        assert next(chunks) == b"x" + DATA[1:50_000]
        assert download.has_unverified_reads
        source.gates[0].set()
        with pytest.raises(Unverified, match="does not match its digest"):
            list(chunks)
        assert download.has_unverified_reads
    assert files(cache) == []


def test_readers_that_want_verified_bytes_never_see_others(cache: BlobCache) -> None:
    bad = ScriptedSource(*CHUNKS[:-1], bytes(len(CHUNKS[-1])), again=2)
    asked_before = bad.blob

    def blob(descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        yield from asked_before(descriptor, start)
        bad.chunks = tuple(CHUNKS)  # from now on

    bad.blob = blob  # type: ignore[method-assign]
    download = Download(described(), cache, bad, lambda count: None, verified_first=True)
    with downloading([download], 1):
        assert b"".join(download.chunks()) == DATA
        assert not download.has_unverified_reads
    assert bad.starts == [0, 0]


def test_a_blob_that_is_wrong_each_time_is_given_up(cache: BlobCache) -> None:
    source = ScriptedSource(*CHUNKS[:-1], bytes(len(CHUNKS[-1])), again=3)
    with pytest.raises(MalformedImage, match="does not match its digest"):
        fetch_blob(described(), cache, source)
    assert source.starts == [0, 0, 0, 0]
    assert files(cache) == []


# Readers


def test_a_reader_gets_bytes_as_they_come_and_waits_for_the_rest(cache: BlobCache) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    counts: list[int] = []
    download = Download(described(), cache, ScriptedSource(*CHUNKS, gates=gates), counts.append)
    with downloading([download], 1):
        chunks = download.chunks()
        gates[0].set()
        assert next(chunks) == CHUNKS[0]
        assert counts == [len(CHUNKS[0])]
        assert files(cache) == [f"partial/{Digest.of(DATA).hex}"]
        for gate in gates:
            gate.set()
        assert b"".join(chunks) == b"".join(CHUNKS[1:])
        assert b"".join(download.chunks()) == DATA
    assert sum(counts) == len(DATA)


def test_a_reader_meets_the_error_before_the_end(cache: BlobCache) -> None:
    """Not a byte more is given out once it is known that they are wrong, and never an end of file."""
    bad = [*CHUNKS[:-1], bytes(len(CHUNKS[-1]))]
    download = Download(described(), cache, ScriptedSource(*bad), lambda count: None)
    with downloading([download], 1), pytest.raises(MalformedImage, match="does not match"):
        list(download.chunks())


def test_who_waited_for_a_blob_need_not_wait_for_its_readers(cache: BlobCache) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    download = Download(described(), cache, ScriptedSource(*CHUNKS, gates=gates), lambda count: None)
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(fetch_blob(described(), cache, ScriptedSource())), daemon=True)
    with downloading([download], 1):
        gates[0].set()
        assert next(download.chunks())
        waiting.start()
        time.sleep(0.2)
        for gate in gates:
            gate.set()
        waiting.join(60)
        assert got == [DATA]


def test_progress_counts_a_cached_blob(cache: BlobCache) -> None:
    fetch_blob(described(), cache, ScriptedSource(*CHUNKS))
    counts: list[int] = []
    download = Download(described(), cache, ScriptedSource(), counts.append)
    with downloading([download], 1):
        assert b"".join(download.chunks()) == DATA
    assert counts == [len(DATA)]


# Downloads ahead


def blobs(count: int) -> list[bytes]:
    return [b"%d" % number * 1000 for number in range(count)]


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_downloads_start_in_order_and_run_as_many_at_a_time_as_asked(cache: BlobCache, jobs: int) -> None:
    lock, at_work, most, order = threading.Lock(), 0, 0, []
    together = threading.Barrier(min(jobs, 6))
    contents = {Digest.of(data): data for data in blobs(6)}

    def source(descriptor: Descriptor) -> Iterator[bytes]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            order.append(descriptor.digest)
            is_first = len(order) <= together.parties
        if is_first:  # as many as asked meet there
            together.wait(60)
        time.sleep(0.05)  # for one too many
        yield contents[descriptor.digest]
        with lock:
            at_work -= 1

    downloads = [Download(described(data), cache, Giving(source), lambda count: None) for data in contents.values()]
    with downloading(downloads, jobs):
        assert [b"".join(download.chunks()) for download in downloads] == list(contents.values())
    assert most == min(jobs, 6)
    assert set(order[:jobs]) == set(list(contents)[:jobs])


def test_leaving_early_stops_all_and_keeps_what_has_come(cache: BlobCache, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    gates[0].set()
    first, second = ScriptedSource(*CHUNKS, gates=gates), ScriptedSource(*blobs(1))
    downloads = [
        Download(described(), cache, first, lambda count: None),
        Download(described(blobs(1)[0]), cache, second, lambda count: None),
    ]

    def stop_and_go_on() -> None:
        Download.stop(downloads[1])
        gates[1].set()

    monkeypatch.setattr(downloads[1], "stop", stop_and_go_on)
    with downloading(downloads, 1, stop_seconds=60):
        next(downloads[0].chunks())
    assert second.asked == 0
    assert files(cache) == [PARTIAL]
    assert cache.resumable_bytes(described()) == len(CHUNKS[0])
    assert not at_work()


def test_leaving_does_not_wait_for_a_server_that_is_silent(cache: BlobCache) -> None:
    ended = threading.Event()
    download = Download(described(), cache, ScriptedSource(*CHUNKS, gates=[ended]), lambda count: None)
    began = time.monotonic()
    with downloading([download], 1, stop_seconds=0.1):
        pass
    assert time.monotonic() - began < 50
    ended.set()
    wait_until(lambda: not at_work())


def at_work() -> list[threading.Thread]:
    """The threads that download."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("download-")]


def test_no_file_stays_open(cache: BlobCache) -> None:
    for size in (len(DATA), 5):
        downloads = [
            Download(described(size=size), cache, ScriptedSource(*CHUNKS), lambda count: None) for _ in range(3)
        ]
        with downloading(downloads, 3):
            for download in downloads:
                try:
                    list(download.chunks())
                except MalformedImage:
                    continue
    fetch_blob(described(), cache, ScriptedSource())
    assert open_below(cache.path(Digest.of(b"")).parent.parent) == []


def open_below(directory: Path) -> list[str]:
    """The open files of this process below a directory."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(file))
    return [path for path in found if path.startswith(f"{directory}/") and not os.path.isdir(path)]
