"""The blob cache: what is kept there, what is not, and who waits for whom."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MachineError, MalformedImage, NetworkError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.store.blobs import BlobCache, Download, Unverified, downloading
from tests.support.tools import CHECKOUT, as_user, clean_environment, user_python

DATA = bytes(range(256)) * 4096
CHUNKS = [DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000)]


def described(data: bytes = DATA, size: int | None = None) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(data), len(data) if size is None else size)


class Origin:
    """Serves chunks and counts how often it is asked; `gates` are waited for before each chunk.

    `again` is how often it answers that the blob may be right the next time.
    """

    def __init__(
        self, *chunks: bytes, gates: list[threading.Event] | None = None, error: Exception | None = None, again: int = 0
    ) -> None:
        self.chunks = chunks
        self.gates = gates or []
        self.error = error
        self.again = again
        self.asked = 0
        self.starts: list[int] = []

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        self.asked += 1
        self.starts.append(start)
        for number, chunk in enumerate(self.chunks):
            if number < len(self.gates):
                assert self.gates[number].wait(20)
            if skipped := min(start, len(chunk)):
                start -= skipped
                chunk = chunk[skipped:]
            yield chunk
        if self.error:
            raise self.error

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        self.again -= 1
        return self.again >= 0


class Giving(Origin):
    """Serves what a function gives."""

    def __init__(self, give: Callable[[Descriptor], Iterator[bytes]]) -> None:
        super().__init__()
        self.give = give

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        yield from self.give(descriptor)


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def files(cache: BlobCache) -> list[str]:
    """All files of the cache, relative to it."""
    root = cache.path(Digest.of(b"")).parent.parent
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


PARTIAL = f"partial/{Digest.of(DATA).hex}"


def whole(data: bytes = DATA) -> str:
    return f"sha256/{hashlib.sha256(data).hexdigest()}"


def test_a_blob_is_kept_and_asked_for_once(cache: BlobCache) -> None:
    origin = Origin(*CHUNKS)
    assert cache.get(described(), origin) == DATA
    assert cache.get(described(), origin) == DATA
    assert origin.asked == 1
    assert files(cache) == [whole()]
    assert cache.path(Digest.of(DATA)).read_bytes() == DATA


def test_an_empty_blob(cache: BlobCache) -> None:
    assert cache.get(described(b""), Origin()) == b""
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
        cache.get(described(), Origin(*chunks))
    assert files(cache) == []


def test_no_more_is_taken_than_was_announced(cache: BlobCache) -> None:
    endless = iter(lambda: b"x" * 1000, b"")
    with pytest.raises(MalformedImage, match="more than"):
        cache.get(described(), Giving(lambda _: endless))


@pytest.mark.parametrize("error", [NetworkError("the link is dead"), KeyError("a mistake of ours")])
def test_what_goes_wrong_underway_reaches_the_reader(cache: BlobCache, error: Exception) -> None:
    """Also what nobody has thought of: it has to end up where errors are shown, not in a thread's traceback."""
    arrival = Download(described(), cache, Origin(*CHUNKS[:2], error=error), lambda count: None)
    with downloading([arrival], 1), pytest.raises(type(error)) as caught:
        list(arrival.chunks())
    assert caught.value is error
    assert files(cache) == [PARTIAL]


def test_a_damaged_blob_is_fetched_again(cache: BlobCache) -> None:
    origin = Origin(*CHUNKS)
    cache.get(described(), origin)
    for damage in (b"", b"x" + DATA[1:], DATA[:-1], DATA + b"x"):
        cache.path(Digest.of(DATA)).write_bytes(damage)
        assert cache.get(described(), origin) == DATA
    assert origin.asked == 5
    assert files(cache) == [whole()]


def test_a_lie_about_the_size_costs_nothing_that_is_sound(cache: BlobCache) -> None:
    origin = Origin(*CHUNKS)
    cache.get(described(), origin)
    with pytest.raises(MalformedImage, match=f"has {len(DATA)} bytes, 5 were announced"):
        cache.get(described(size=5), origin)
    assert origin.asked == 1
    assert files(cache) == [whole()]


def test_use_is_noted(cache: BlobCache) -> None:
    cache.get(described(), Origin(*CHUNKS))
    os.utime(cache.path(Digest.of(DATA)), (0, 0))
    cache.get(described(), Origin())
    assert time.time() - cache.path(Digest.of(DATA)).stat().st_mtime < 60


def test_what_a_killed_run_left_is_taken_over(cache: BlobCache) -> None:
    left = cache.path(Digest.of(DATA)).parent.parent / "partial" / Digest.of(DATA).hex
    left.parent.mkdir(parents=True)
    left.write_bytes(DATA[:150_001])
    origin = Origin(*CHUNKS)
    told: list[int] = []
    arrival = Download(described(), cache, origin, told.append)
    with downloading([arrival], 1):
        assert b"".join(arrival.chunks()) == DATA
    assert origin.starts == [150_001]
    assert (told[0], sum(told)) == (150_001, len(DATA))
    assert files(cache) == [whole()]


def test_what_was_left_whole_is_not_asked_for(cache: BlobCache) -> None:
    left_behind(cache, DATA)
    origin = Origin(*CHUNKS)
    assert cache.get(described(), origin) == DATA
    assert origin.asked == 0


@pytest.mark.parametrize("left", [b"garbage", b"garbage" * 10**6, DATA[:-1] + b"x", DATA + b"x", b"x" + DATA[1:50_000]])
def test_what_was_left_wrong_is_fetched_from_its_start(cache: BlobCache, left: bytes) -> None:
    left_behind(cache, left)
    told: list[int] = []
    arrival = Download(described(), cache, origin := Origin(*CHUNKS), told.append)
    arrival.run()
    assert b"".join(arrival.chunks()) == DATA
    arrival.close()
    assert origin.starts[-1] == 0
    assert sum(told) == len(DATA)
    assert files(cache) == [whole()]


def left_behind(cache: BlobCache, data: bytes) -> None:
    """Put there what a killed run may have left."""
    left = cache.path(Digest.of(DATA)).parent.parent / PARTIAL
    left.parent.mkdir(parents=True)
    left.write_bytes(data)


def test_what_has_been_read_is_not_replaced(cache: BlobCache) -> None:
    """What a reader has open keeps its content; it is told to read again, and then nothing wrong is given out."""
    left_behind(cache, b"x" + DATA[1:50_000])
    origin = Origin(*CHUNKS, gates=[threading.Event()])
    arrival = Download(described(), cache, origin, lambda count: None)
    with downloading([arrival], 1):
        chunks = arrival.chunks()
        assert next(chunks) == b"x" + DATA[1:50_000]
        assert arrival.is_doubtful
        origin.gates[0].set()
        with pytest.raises(Unverified, match="does not match its digest"):
            list(chunks)
        assert arrival.is_doubtful
    assert files(cache) == []


def test_readers_that_want_verified_bytes_never_see_others(cache: BlobCache) -> None:
    bad = Origin(*CHUNKS[:-1], bytes(len(CHUNKS[-1])), again=2)
    asked_before = bad.blob

    def blob(descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        yield from asked_before(descriptor, start)
        bad.chunks = tuple(CHUNKS)  # from now on

    bad.blob = blob  # type: ignore[method-assign]
    arrival = Download(described(), cache, bad, lambda count: None, verified_first=True)
    with downloading([arrival], 1):
        assert b"".join(arrival.chunks()) == DATA
        assert not arrival.is_doubtful
    assert bad.starts == [0, 0]


def test_a_blob_that_is_wrong_each_time_is_given_up(cache: BlobCache) -> None:
    origin = Origin(*CHUNKS[:-1], bytes(len(CHUNKS[-1])), again=3)
    with pytest.raises(MalformedImage, match="does not match its digest"):
        cache.get(described(), origin)
    assert origin.starts == [0, 0, 0, 0]
    assert files(cache) == []


# Readers


def test_a_reader_gets_bytes_as_they_come_and_waits_for_the_rest(cache: BlobCache) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    told: list[int] = []
    arrival = Download(described(), cache, Origin(*CHUNKS, gates=gates), told.append)
    with downloading([arrival], 1):
        chunks = arrival.chunks()
        gates[0].set()
        assert next(chunks) == CHUNKS[0]
        assert told == [len(CHUNKS[0])]
        assert files(cache) == [f"partial/{Digest.of(DATA).hex}"]
        for gate in gates:
            gate.set()
        assert b"".join(chunks) == b"".join(CHUNKS[1:])
        assert b"".join(arrival.chunks()) == DATA
    assert sum(told) == len(DATA)


def test_a_reader_meets_the_error_before_the_end(cache: BlobCache) -> None:
    """Not a byte more is given out once it is known that they are wrong, and never an end of file."""
    bad = [*CHUNKS[:-1], bytes(len(CHUNKS[-1]))]
    arrival = Download(described(), cache, Origin(*bad), lambda count: None)
    with downloading([arrival], 1), pytest.raises(MalformedImage, match="does not match"):
        list(arrival.chunks())


def test_who_waited_for_a_blob_need_not_wait_for_its_readers(cache: BlobCache) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    arrival = Download(described(), cache, Origin(*CHUNKS, gates=gates), lambda count: None)
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(cache.get(described(), Origin())), daemon=True)
    with downloading([arrival], 1):
        gates[0].set()
        assert next(arrival.chunks())
        waiting.start()
        time.sleep(0.2)
        for gate in gates:
            gate.set()
        waiting.join(10)
        assert got == [DATA]


def test_progress_counts_a_cached_blob(cache: BlobCache) -> None:
    cache.get(described(), Origin(*CHUNKS))
    told: list[int] = []
    arrival = Download(described(), cache, Origin(), told.append)
    with downloading([arrival], 1):
        assert b"".join(arrival.chunks()) == DATA
    assert told == [len(DATA)]


# Downloads ahead


def blobs(count: int) -> list[bytes]:
    return [b"%d" % number * 1000 for number in range(count)]


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_as_many_at_a_time_as_told_and_in_order(cache: BlobCache, jobs: int) -> None:
    lock, at_work, most, order = threading.Lock(), 0, 0, []
    contents = {Digest.of(data): data for data in blobs(6)}

    def origin(descriptor: Descriptor) -> Iterator[bytes]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            order.append(descriptor.digest)
        time.sleep(0.05)
        yield contents[descriptor.digest]
        with lock:
            at_work -= 1

    arrivals = [Download(described(data), cache, Giving(origin), lambda count: None) for data in contents.values()]
    with downloading(arrivals, jobs):
        assert [b"".join(arrival.chunks()) for arrival in arrivals] == list(contents.values())
    assert most == min(jobs, 6)
    assert set(order[:jobs]) == set(list(contents)[:jobs])


def test_leaving_early_stops_all_and_keeps_what_has_come(cache: BlobCache) -> None:
    gates = [threading.Event() for _ in CHUNKS]
    gates[0].set()
    first, second = Origin(*CHUNKS, gates=gates), Origin(*blobs(1))
    arrivals = [
        Download(described(), cache, first, lambda count: None),
        Download(described(blobs(1)[0]), cache, second, lambda count: None),
    ]
    with downloading(arrivals, 1):
        next(arrivals[0].chunks())
        threading.Timer(0.1, gates[1].set).start()
    assert second.asked == 0
    assert files(cache) == [PARTIAL]
    assert cache.kept(described()) == len(CHUNKS[0])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download-")]


def test_leaving_does_not_wait_for_a_server_that_is_silent(cache: BlobCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.store.blobs._STOP_SECONDS", 0.1)
    ended = threading.Event()
    arrival = Download(described(), cache, Origin(*CHUNKS, gates=[ended]), lambda count: None)
    began = time.monotonic()
    with downloading([arrival], 1):
        pass
    assert time.monotonic() - began < 5
    ended.set()


def test_no_file_stays_open(cache: BlobCache) -> None:
    for size in (len(DATA), 5):
        arrivals = [Download(described(size=size), cache, Origin(*CHUNKS), lambda count: None) for _ in range(3)]
        with downloading(arrivals, 3):
            for arrival in arrivals:
                try:
                    list(arrival.chunks())
                except MalformedImage:
                    continue
    cache.get(described(), Origin())
    assert open_below("/cache/") == []


def open_below(part: str) -> list[str]:
    """The open files of this process with `part` in their path."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(file))
    return [path for path in found if part in path]


# What the machine refuses


def test_a_cache_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"use the cache .*/file/cache: Not a directory") as caught:
        BlobCache(tmp_path / "file" / "cache").get(described(), Origin(*CHUNKS))
    assert "PROVISION_CACHE_DIR" in caught.value.hint


def test_a_full_disk(tmp_path: Path) -> None:
    """The limit on a file's size stands for it: writing fails in the middle of a blob."""
    done = python(
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "try:\n"
        "    cache.get(described, origin)\n"
        "except MachineError as error:\n"
        "    print(error.message, '|', error.hint)\n",
        tmp_path / "cache",
    )
    said, error = done.communicate(timeout=30)
    assert error == ""
    assert said.startswith(f"asked 0\nuse the cache {tmp_path}/cache: File too large | free some space there")
    assert files(BlobCache(tmp_path / "cache")) == [PARTIAL]


def test_a_cache_of_somebody_else_may_be_read(place: Path) -> None:
    cache = BlobCache(place)
    cache.get(described(), Origin(*CHUNKS))
    os.chmod(place / "sha256", 0o555)
    os.chmod(cache.path(Digest.of(DATA)), 0o444)
    done = python("print(len(cache.get(described, None)))", place, **as_user())
    assert done.communicate(timeout=30) == (f"{len(DATA)}\n", "")


# Several processes

PROGRAM = f"""\
import sys, time
from pathlib import Path
from provisioner.store.blobs import BlobCache
from provisioner.image.digest import Digest
from provisioner.errors import MachineError
from provisioner.image.manifest import Descriptor
data = bytes(range(256)) * 4096
cache = BlobCache(Path(sys.argv[1]))
described = Descriptor("x", Digest.parse("{Digest.of(DATA)}"), len(data))
class Origin:
    def __init__(self, pause=0.0, data=data):
        self.pause, self.data = pause, data
    def blob(self, _, start=0):
        print("asked", start, flush=True)
        for at in range(start, len(self.data), 100_000):
            yield self.data[at:at + 100_000]
            time.sleep(self.pause)
    def wrong(self, _):
        return False
origin = Origin()
"""


def python(program: str, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """A process with `cache`, `described`, `origin` and `Origin(pause, data)` that does what `program` says."""
    here = (sys.executable, {"PYTHONPATH": str(CHECKOUT)})
    interpreter, found = user_python() if "user" in options else here
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {**options.pop("env", clean_environment()), **found}
    return subprocess.Popen([interpreter, "-c", PROGRAM + program, str(cache)], **{**pipes, **options, "env": env})


def test_processes_that_want_the_same_blob_at_once_fetch_it_once(tmp_path: Path) -> None:
    program = "assert cache.get(described, Origin(0.05)) == data\nprint('got', flush=True)"
    processes = [python(program, tmp_path / "cache") for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in outputs] == [""] * 4
    assert sorted(said for said, _ in outputs) == ["asked 0\ngot\n", "got\n", "got\n", "got\n"]
    assert files(BlobCache(tmp_path / "cache")) == [whole()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_a_process_that_ends_lets_another_one_take_over(tmp_path: Path, number: signal.Signals) -> None:
    slow = "cache.get(described, Origin(1))"
    with python(slow, tmp_path / "cache") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "asked 0\n"
        with python("assert cache.get(described, origin) == data", tmp_path / "cache") as second:
            assert second.stdout is not None
            time.sleep(1)
            assert second.poll() is None
            first.send_signal(number)
            # What the first one wrote isn't fetched again; a kill may come in the middle of a write.
            what, start = second.stdout.readline().split()
            assert what == "asked"
            assert 100_000 <= int(start) < len(DATA)
            assert second.wait(timeout=30) == 0
        first.wait(timeout=30)
        first.communicate()
    assert files(BlobCache(tmp_path / "cache")) == [whole()]


@pytest.mark.slow
def test_waiting_processes_try_themselves_when_the_first_one_fails(tmp_path: Path) -> None:
    bad = "cache.get(described, Origin(0.1, bytes(len(data))))"
    with python(f"print('here', flush=True)\n{bad}", tmp_path / "cache") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "here\n"
        time.sleep(0.3)
        with python("assert cache.get(described, origin) == data", tmp_path / "cache") as second:
            assert second.communicate(timeout=30) == ("asked 0\n", "")
        first.communicate(timeout=30)
        assert first.returncode == 1
    assert files(BlobCache(tmp_path / "cache")) == [whole()]
