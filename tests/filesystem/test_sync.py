"""Writing to the disk: each way to do it, on a real disk that loses its power or fails, and one that is slow."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.filesystem import sync
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.sync import (
    METHODS,
    call_syncfs,
    run_sync_program,
    sync_below,
    sync_directories,
    sync_each_file,
    unwritten_bytes,
)
from tests.support.disks import disk
from tests.support.tools import CHECKOUT, need
from tests.support.trees import tree_of

Means = Callable[[int], bool]
NO_DISK = (errno.EIO, errno.ENOSPC)
"""What a loop device without room answers."""


def fill(folder: Path, size: int = 100_000) -> None:
    """Make a small tree with a file, a directory that is closed, a symlink and a FIFO."""
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(os.urandom(size))
    (folder / "a/closed").mkdir(mode=0)
    (folder / "a/link").symlink_to("/nowhere")
    os.mkfifo(folder / "a/fifo")


@pytest.mark.parametrize("means", METHODS)
def test_what_was_synced_is_there_after_a_power_cut(tmp_path: Path, means: Means) -> None:
    with disk(tmp_path) as mounted:
        folder = mounted.path / "folder"
        folder.mkdir()
        with closing_descriptor(os.open(folder, DIRECTORY)) as opened:
            fill(folder)
            assert means(opened)
        sync_directories([mounted.path])
        expected = tree_of(folder)
        mounted.cut_power()
        assert tree_of(folder) == expected


@pytest.mark.parametrize("means", METHODS)
def test_what_could_not_be_written_is_an_error(tmp_path: Path, means: Means) -> None:
    with disk(tmp_path, "ext2", room="30m") as mounted, closing_descriptor(os.open(mounted.path, DIRECTORY)) as opened:
        fill(mounted.path, 60 << 20)
        with pytest.raises(OSError) as caught:  # noqa: PT011  its number is what counts
            means(opened)
        assert caught.value.errno in NO_DISK


def test_an_error_that_came_earlier_is_not_missed(tmp_path: Path) -> None:
    """Another process, or the kernel by itself, may have met it; whoever had the file system open gets it as well."""
    need("sync")
    with disk(tmp_path, "ext2", room="30m") as mounted, closing_descriptor(os.open(mounted.path, DIRECTORY)) as opened:
        fill(mounted.path, 60 << 20)
        assert subprocess.run(["sync", "-f", mounted.path], stderr=subprocess.DEVNULL, check=False).returncode != 0
        with pytest.raises(OSError) as caught:  # noqa: PT011
            sync_below(opened, lambda count: None)
        assert caught.value.errno in NO_DISK


def test_the_first_way_is_the_one_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (call_syncfs, run_sync_program, sync_each_file) == METHODS
    used: list[str] = []

    def means(name: str, result: bool) -> Means:
        def use(directory: int) -> bool:
            used.append(name)
            return result

        return use

    monkeypatch.setattr(sync, "METHODS", (means("missing", False), means("there", True), means("not needed", True)))
    with closing_descriptor(os.open(tmp_path, DIRECTORY)) as opened:
        sync_below(opened, lambda count: None)
    assert used == ["missing", "there"]


def test_a_sync_program_that_knows_no_options_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As toybox's."""
    need("sh")
    (tmp_path / "sync").write_text("#!/bin/sh\necho 'sync: Unknown option f' >&2\nexit 1\n")
    (tmp_path / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with closing_descriptor(os.open(tmp_path, DIRECTORY)) as opened:
        assert not run_sync_program(opened)
        monkeypatch.setenv("PATH", "/nowhere")
        assert not run_sync_program(opened)


@pytest.mark.parametrize("text", ["sync: error syncing '/x': Input/output error", "sync: /x: I/O error"])
def test_an_error_of_the_disk_that_a_program_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "sync").write_text(f'#!/bin/sh\necho "{text}" >&2\nexit 1\n')
    (tmp_path / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        closing_descriptor(os.open(tmp_path, DIRECTORY)) as opened,
        pytest.raises(OSError, match="Input/output error"),
    ):
        run_sync_program(opened)


def test_a_slow_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int | None] = []
    is_called = threading.Event()

    def slow(directory: int) -> bool:
        return is_called.wait(60)

    def waiting(count: int | None) -> None:
        counts.append(count)
        is_called.set()

    monkeypatch.setattr(sync, "WAITING_SECONDS", 0.01)
    monkeypatch.setattr(sync, "METHODS", (slow,))
    with closing_descriptor(os.open(tmp_path, DIRECTORY)) as opened:
        sync_below(opened, waiting)
    assert len(counts) == 1
    assert isinstance(counts[0], int)


def test_a_fast_disk_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int | None] = []
    monkeypatch.setattr(sync, "WAITING_SECONDS", 60.0)
    with closing_descriptor(os.open("/dev/shm", DIRECTORY)) as opened:
        sync_below(opened, counts.append)
    assert counts == []


def test_what_the_machine_has_yet_to_write_is_known() -> None:
    count = unwritten_bytes()
    assert count is not None
    assert count >= 0


def test_it_works_where_no_more_threads_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with closing_descriptor(os.open(tmp_path, DIRECTORY)) as opened:
        sync_below(opened, lambda count: None)


def test_a_directory_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    """Others may write to it all the same."""
    (tmp_path / "closed").mkdir(mode=0o300)
    sync_directories([tmp_path / "closed", tmp_path])
    with closing_descriptor(os.open(tmp_path, DIRECTORY)) as base:
        sync_directories(["closed", "..", "../.."], base)


INTERRUPTED = """
import os, signal, sys, threading
from provisioner.filesystem import sync

sync.METHODS = (lambda directory: threading.Event().wait(),)  # a disk that doesn't answer
sync.WAITING_SECONDS = 0.01
try:
    sync.sync_below(0, lambda count: threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT]).start())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_the_wait() -> None:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
