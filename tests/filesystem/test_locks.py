"""Locks on open files and directories: who waits, for how long, and when they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from provisioner.filesystem.locks import lock, lock_holder, locked_directory, process_name, try_lock, unlock
from tests.support.leftovers import open_descriptors
from tests.support.tools import CHECKOUT


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The same file, opened twice: locks belong to the open file, so the two stand for two processes."""
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as one, path.open("rb") as other:
        yield one, other


def test_one_at_a_time(files: tuple[BinaryIO, BinaryIO]) -> None:
    one, other = files
    assert try_lock(one)
    assert not try_lock(other)
    assert try_lock(one.fileno())  # its own lock, by the number of the open file
    unlock(one)
    assert try_lock(other)


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_waiting_for_a_limited_time(files: tuple[BinaryIO, BinaryIO], seconds: float) -> None:
    one, other = files
    lock(one, seconds=seconds)
    started = time.monotonic()
    with pytest.raises(BlockingIOError):
        lock(other, seconds=seconds)
    assert seconds <= time.monotonic() - started < 30


@pytest.mark.parametrize("seconds", [None, 60])
def test_the_next_one_gets_it_once_it_is_released(files: tuple[BinaryIO, BinaryIO], seconds: float | None) -> None:
    one, other = files
    lock(one)
    timer = threading.Timer(0.1, unlock, [one])
    timer.start()
    lock(other, seconds=seconds)
    assert not try_lock(one)
    timer.join()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    code = "import sys; from provisioner.filesystem.locks import lock; file = open(sys.argv[1]); lock(file)"
    code += "; print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (
        path.open("rb") as file,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process,
    ):
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        assert not try_lock(file)
        process.kill()
        lock(file, seconds=60)


def test_one_holds_a_directory_at_a_time(tmp_path: Path) -> None:
    got = threading.Event()

    def other() -> None:
        with locked_directory(tmp_path):
            got.set()

    thread = threading.Thread(target=other)
    with locked_directory(tmp_path):
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(60)
    thread.join()


def test_a_directory_that_stays_locked_is_not_waited_for(tmp_path: Path) -> None:
    before = len(open_descriptors())
    with locked_directory(tmp_path):
        with pytest.raises(BlockingIOError), locked_directory(tmp_path, seconds=0.05):
            pass
        assert len(open_descriptors()) == before + 1
    with locked_directory(tmp_path, seconds=0):
        pass


def test_only_a_directory_that_exists_is_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), locked_directory(tmp_path / "file"):
        pass
    with pytest.raises(FileNotFoundError), locked_directory(tmp_path / "absent"):
        pass


def test_no_other_module_uses_flock() -> None:
    package = CHECKOUT / "provisioner"
    users = [path.relative_to(package) for path in package.rglob("*.py") if "fcntl.flock" in path.read_text()]
    assert users == [Path("filesystem/locks.py")]


# Who holds it

HOLD = "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.flock(file, 2); print(flush=True); time.sleep(60)"


def test_the_holder_of_a_lock_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as file, (tmp_path / "other").open("wb") as other:
        assert lock_holder(file) is None
        with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert lock_holder(file) == process.pid
            assert process_name(process.pid).startswith("python")
            assert lock_holder(other) is None
            process.kill()
        assert lock_holder(file) is None
    assert process_name(2**30) == ""
