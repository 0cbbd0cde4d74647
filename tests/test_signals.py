"""Signals become exceptions at moments when these do no harm, and none is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from provisioner import cli, signals
from provisioner.container.staging import Staging
from provisioner.exports.output_file import output_file
from provisioner.filesystem.locks import lock
from provisioner.layers.workers import Workers
from provisioner.signals import Terminated, forget_waiting, interruptible, raise_on, raise_waiting
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.prune import in_use


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Let signals raise exceptions, and put back what they did before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    forget_waiting()  # pytest's own timer for this test
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise_on(signal.SIGINT, signal.SIGTERM)
    yield
    forget_waiting()
    for number, handler in before.items():
        signal.signal(number, handler)


def wait(seconds: float = 60.0) -> None:
    """Wait for the exception of a signal, at a place where it can be raised."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.001)


def expect(error: type[BaseException], run: Callable[[], object]) -> None:
    """Call a function in which signals raise exceptions, and expect one."""
    with pytest.raises(error):
        interruptible(run)
    forget_waiting()


@contextmanager
def arriving(number: signal.Signals, step: int) -> Iterator[list[bool]]:
    """Let a signal arrive when this many functions have ended here, and say whether it has."""
    steps = iter(range(step, -1, -1))
    has_arrived = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event in ("return", "c_return") and next(steps) == 0:
            sys.setprofile(None)
            has_arrived.append(True)
            handler = signal.getsignal(number)
            if callable(handler):
                handler(number, frame)

    sys.setprofile(profile)
    try:
        yield has_arrived
    finally:
        sys.setprofile(None)


def arrives(work: Callable[[Path], None], place: Path, step: int) -> bool:
    """Return False if `work` ends before this many functions that it calls have ended; else SIGINT arrives then."""
    with arriving(signal.SIGINT, step) as has_arrived:
        work(place)
    if has_arrived:
        wait()
    return False


def children() -> str:
    """Return the numbers of this thread's child processes."""
    return Path("/proc/thread-self/children").read_text()


def stage(place: Path) -> None:
    with Staging(place / "above/dir"):
        time.sleep(0.005)


def write_archive(place: Path) -> None:
    with output_file(str(place / "archive")) as file:
        os.write(file, b"x")
        time.sleep(0.005)
    os.unlink(place / "archive")


def use_cache(place: Path) -> None:
    with in_use(CacheDirectory(place / "cache")):
        time.sleep(0.005)


def fork(_: Path) -> None:
    with Workers(1, lambda number, chunks: iter(())):
        time.sleep(0.005)


@pytest.mark.parametrize("work", [stage, write_archive, use_cache, fork])
def test_after_any_step_a_signal_is_raised_and_leaves_nothing(
    work: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_PATIENCE_SECONDS", 60)  # a machine may do nothing for a second
    work(tmp_path)  # which imports what it needs
    others, step, has_arrived = children(), 0, True
    while has_arrived:
        try:
            has_arrived = interruptible(partial(arrives, work, tmp_path, step))
        except KeyboardInterrupt:
            has_arrived = True
        forget_waiting()
        left = [path.name for path in tmp_path.rglob("*") if path.name not in ("archive", "cache", "runs")]
        assert (step, left, children()) == (step, [], others)
        step += 1
    assert step > 30


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_what_hides_a_signal_does_not_end_the_matter(number: signal.Signals, error: type[BaseException]) -> None:
    def hide() -> None:
        with suppress(OSError):
            try:
                os.kill(os.getpid(), number)
            finally:
                os.close(-1)

    def run() -> None:
        hide()
        wait()

    expect(error, run)


def test_a_signal_is_raised_once_however_long_its_handling_takes() -> None:
    def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            with suppress(ValueError):
                try:
                    raise ValueError
                finally:
                    wait(0.3)
                    done.append(True)

    done: list[bool] = []
    expect(KeyboardInterrupt, run)
    assert done


def test_a_generator_that_a_signal_closes_is_closed_whole() -> None:
    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            wait(0.3)
            done.append(True)

    def read() -> None:
        for _ in numbers():
            os.kill(os.getpid(), signal.SIGINT)

    done: list[bool] = []
    expect(KeyboardInterrupt, read)
    assert done


def test_two_signals_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is closed sends SIGHUP, and so does its shell."""
    monkeypatch.setattr(signals, "_TOGETHER_SECONDS", 60)

    def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            wait(0.1)
            done.append(True)

    done: list[bool] = []
    expect(Terminated, run)
    assert done


def test_a_signal_that_waits_is_raised_before_another_program_runs() -> None:
    class Deleted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def run() -> None:
        Deleted()
        raise_waiting()
        raise AssertionError

    expect(KeyboardInterrupt, run)


def test_a_second_signal_is_one_also_at_the_moment_when_the_timer_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has expired then, and the first signal still waits."""
    monkeypatch.setattr(signals, "_TOGETHER_SECONDS", 0)

    def __del__() -> None:  # noqa: N807
        os.kill(os.getpid(), signal.SIGINT)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    expect(KeyboardInterrupt, __del__)


def test_a_signal_that_has_waited_long_for_an_import_waits_for_the_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(signals, "_AGAIN_SECONDS", 60)  # it is looked at below
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("it has ended the process"))

    def __del__() -> None:  # noqa: N807
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)

    def look() -> None:
        handler = signal.getsignal(signal.SIGALRM)
        assert callable(handler)
        handler(signal.SIGALRM, sys._getframe())

    interruptible(__del__)
    look()
    expect(KeyboardInterrupt, look)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_what_python_ignores_is_raised_behind_it(number: signal.Signals) -> None:
    class Deleted:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            wait(0.02)
            done.append(True)

    def run() -> None:
        Deleted()
        wait()

    done: list[bool] = []
    expect(KeyboardInterrupt if number == signal.SIGINT else Terminated, run)
    assert done


def test_who_waits_for_a_file_does_not_wait_on_after_a_signal(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as first, (tmp_path / "file").open("wb") as second:
        lock(first)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        expect(KeyboardInterrupt, lambda: lock(second))
        timer.join()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("timer", [False, True], ids=["signal", "timer of a raised signal"])
def test_after_any_step_of_a_run_a_signal_is_its_status_or_comes_too_late(
    number: signal.Signals, status: int, timer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: list[str]) -> int:
        if timer:
            os.kill(os.getpid(), number)
        wait(0.01)
        return len(words)

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setattr(signals, "_PATIENCE_SECONDS", 60)
    statuses, step, has_arrived = [], 0, [True]
    while has_arrived:
        with arriving(signal.SIGALRM if timer else number, step) as has_arrived:
            statuses.append(cli.main(["list", "-q"]))
        step += 1
    assert set(statuses) == ({status} if timer else {2, status})
    assert step > 30
