"""Worker processes: their results, their failures, and that none is left."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import pytest

from provisioner.errors import MachineError, MalformedImage, NetworkError
from provisioner.image.digest import CHUNK
from provisioner.layers.workers import Workers, may_fork
from tests.support.leftovers import forks_noted
from tests.support.spooled import SpooledBlob
from tests.support.tools import CHECKOUT, clean_environment

T = TypeVar("T")
BLOBS: list[SpooledBlob] = []
"""Those of the current test."""

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    files, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    with forks_noted():
        yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive()
    while BLOBS:
        BLOBS.pop().close()
    assert set(os.listdir("/proc/self/fd")) <= files


def begin(workers: Workers[T], tasks: Mapping[int, Iterable[bytes]]) -> None:
    blobs = {number: SpooledBlob(chunks, start=number * 1000) for number, chunks in tasks.items()}
    BLOBS.extend(blobs.values())
    workers.begin(blobs)


def chunks(size: int, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b""
        yield bytes([number % 256]) * size


def echo(number: int, chunks: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    for chunk in chunks:
        yield number, os.getpid(), chunk


def test_results_come_in_the_order_of_the_tasks() -> None:
    """Also if they are larger than pipes and buffers."""
    with Workers(2, echo) as processes:
        assert processes
        begin(processes, {number: chunks(300_000, 50) for number in (3, 5, 6, 7, 9)})
        pids = set()
        for number in (3, 5, 6, 7, 9):
            results = list(processes.results(number))
            assert {task for task, _, _ in results} == {number}
            assert b"".join(chunk for _, _, chunk in results) == b"".join(chunks(300_000, 50))
            pids |= {pid for _, pid, _ in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_blob_is_read_from_its_file_while_it_grows() -> None:
    """The second chunk comes when the worker has read the first one; the main process reads none."""
    is_read = threading.Event()

    def growing() -> Iterator[bytes]:
        yield b"1"
        assert is_read.wait(60)
        yield b"2"

    blob = SpooledBlob(growing())
    BLOBS.append(blob)
    blob.chunks = NotImplemented  # type: ignore[method-assign]
    with Workers(1, echo) as processes:
        processes.begin({1: blob})
        results = processes.results(1)
        assert next(results)[2] == b"1"
        is_read.set()
        assert [chunk for _, _, chunk in results] == [b"2"]


def test_a_free_worker_takes_the_next_task() -> None:
    """The first task ends only when another worker has started the last one."""
    third_is_read = threading.Event()

    def first() -> Iterator[bytes]:
        yield b"1"
        assert third_is_read.wait(60)

    def third() -> Iterator[bytes]:
        third_is_read.set()
        yield b"3"

    with Workers(2, echo) as processes:
        begin(processes, {1: first(), 2: iter([b"2"]), 3: third()})
        assert [chunk for number in (1, 2, 3) for _, _, chunk in processes.results(number)] == [b"1", b"2", b"3"]


def wait_for_the_last(number: int, chunks: Iterator[bytes]) -> Iterator[tuple[int, int]]:
    first, second = (int(descriptor) for descriptor in b"".join(chunks).split())
    if number == 1:
        select.select([first], [], [], 60)  # until the third task is done
    elif number == 3:
        os.write(second, b".")
    yield number, os.getpid()


def test_a_worker_that_has_not_done_its_task_gets_no_other() -> None:
    """Although all bytes of all tasks are there from the beginning."""
    first, second = os.pipe()
    with Workers(2, wait_for_the_last) as processes:
        begin(processes, {number: [b"%d %d" % (first, second)] for number in (1, 2, 3)})
        pids = {number: next(iter(list(processes.results(number))))[1] for number in (1, 2, 3)}
    assert pids[1] != pids[2] == pids[3]
    os.close(first)
    os.close(second)


def refuse(number: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if chunk == b"bad":
            raise MalformedImage(f"task {number}", "fix it")
        if chunk == b"odd":
            raise KeyError("odd")
        yield chunk


def test_an_error_comes_after_the_results_before_it() -> None:
    with Workers(1, refuse) as processes:
        begin(processes, {1: iter([b"a"]), 2: iter([b"b", b"bad", *[bytes(1 << 20)] * 10]), 3: iter([b"c"])})
        assert list(processes.results(1)) == [b"a"]
        results = processes.results(2)
        assert next(results) == b"b"
        with pytest.raises(MalformedImage, match=r"^task 2$") as raised:
            next(results)
    assert raised.value.hint == "fix it"


def test_workers_ignore_signals_to_end() -> None:
    """The main process gets Ctrl-C as well, and would report killed workers."""
    with Workers(1, echo) as processes:
        begin(processes, {1: chunks(300_000, 50)})
        results = processes.results(1)
        _, pid, _ = next(results)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        assert sum(len(chunk) for _, _, chunk in results) > 49 * 300_000 - CHUNK


def test_an_unexpected_exception_is_reported_by_its_name() -> None:
    with Workers(1, refuse) as processes:
        begin(processes, {1: iter([b"odd"])})
        with pytest.raises(RuntimeError, match=r"^KeyError: 'odd'$"):
            list(processes.results(1))


def test_an_error_of_the_bytes_of_a_task_is_raised_for_that_task() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise NetworkError("the line is dead")

    with Workers(2, refuse) as processes:
        begin(processes, {1: iter([b"b"]), 2: broken(), 3: iter([b"c"])})
        assert list(processes.results(1)) == [b"b"]
        with pytest.raises(NetworkError, match=r"^the line is dead$"):
            list(processes.results(2))


def die(number: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(chunks)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_not_taken_for_the_end_of_its_task() -> None:
    with Workers(1, die) as processes:
        begin(processes, {1: chunks(300_000, 50)})
        with pytest.raises(MachineError, match="was killed") as raised:
            list(processes.results(1))
    assert "memory" in raised.value.hint


def test_leaving_early_kills_the_workers() -> None:
    with Workers(2, echo) as processes:
        begin(processes, {number: chunks(300_000, 500) for number in range(4)})
        next(processes.results(0))
    with Workers(2, echo):
        pass


def test_where_fork_is_refused_there_are_fewer_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Android limits the processes of an app."""
    allowed = [1]
    fork = os.fork

    def limited() -> int:
        if not allowed:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        allowed.pop()
        return fork()

    monkeypatch.setattr(os, "fork", limited)
    with Workers(3, echo) as processes:
        assert processes
        begin(processes, {1: iter([b"a"]), 2: iter([b"b"])})
        assert [chunk for number in (1, 2) for _, _, chunk in processes.results(number)] == [b"a", b"b"]
    with Workers(3, echo) as processes:
        assert not processes


def test_a_process_with_threads_is_not_forked() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    assert not may_fork()
    ended.set()
    thread.join()


PROGRAM = """
import os, sys, time
from provisioner.layers.workers import Workers
from tests.support.spooled import SpooledBlob

def work(number, chunks):
    for chunk in chunks:
        yield os.getpid()

def chunks():
    while True:
        yield bytes(1 << 10)
        time.sleep(0.001)

with Workers(2, work) as workers:
    workers.begin({1: SpooledBlob(chunks()), 2: SpooledBlob(chunks())})
    print(next(workers.results(1)), next(workers.results(2)), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["it alone", "all"])
def test_workers_end_with_the_main_process(number: signal.Signals, whom: str) -> None:
    """A terminal sends Ctrl-C to all of them; only the main process reports it."""
    environment = clean_environment(PYTHONPATH=str(CHECKOUT))
    command = ["env", "--default-signal", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, process_group=0
    ) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(set(pids)) == 2
        (os.kill if whom == "it alone" else os.killpg)(process.pid, number)
        errors = process.communicate(timeout=60)[1]  # which waits for all who may still write there
    assert process.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)
    deadline = time.monotonic() + 60
    for pid in pids:
        while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{pid}/exe")
