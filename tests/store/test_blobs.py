"""The blob cache: what the machine refuses, and several processes that want the same blob."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MachineError
from provisioner.image.digest import Digest
from provisioner.store.blobs import BlobCache
from provisioner.store.download import fetch_blob
from tests.support.blobs import CHUNKS, DATA, PARTIAL, ScriptedSource, described, files, whole
from tests.support.tools import CHECKOUT, as_user, clean_environment, user_python
from tests.support.waiting import wait_until

# What the machine refuses


def test_a_cache_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"use the cache .*/file/cache: Not a directory") as caught:
        fetch_blob(described(), BlobCache(tmp_path / "file" / "cache"), ScriptedSource(*CHUNKS))
    assert "PROVISION_CACHE_DIR" in caught.value.hint


def test_a_full_disk(tmp_path: Path) -> None:
    """The limit on a file's size stands for it: writing fails in the middle of a blob."""
    done = python(
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "try:\n"
        "    fetch_blob(described, cache, source)\n"
        "except MachineError as error:\n"
        "    print(error.message, '|', error.hint)\n",
        tmp_path / "cache",
    )
    said, error = done.communicate(timeout=60)
    assert error == ""
    assert said.startswith(f"asked 0\nuse the cache {tmp_path}/cache: File too large | free some space there")
    assert files(BlobCache(tmp_path / "cache")) == [PARTIAL]


def test_a_cache_of_somebody_else_may_be_read(place: Path) -> None:
    cache = BlobCache(place)
    fetch_blob(described(), cache, ScriptedSource(*CHUNKS))
    os.chmod(place / "sha256", 0o555)
    os.chmod(cache.path(Digest.of(DATA)), 0o444)
    done = python("print(len(fetch_blob(described, cache, None)))", place, **as_user())
    assert done.communicate(timeout=60) == (f"{len(DATA)}\n", "")


# Several processes

PROGRAM = f"""\
import sys, time
from pathlib import Path
from provisioner.store.blobs import BlobCache, BlobSource
from provisioner.store.download import fetch_blob
from provisioner.image.digest import Digest
from provisioner.errors import MachineError, MalformedImage
from provisioner.image.manifest import Descriptor
data = bytes(range(256)) * 4096
cache = BlobCache(Path(sys.argv[1]))
described = Descriptor("x", Digest.parse("{Digest.of(DATA)}"), len(data))
class Source(BlobSource):
    def __init__(self, pause=0.0, data=data):
        self.pause, self.data = pause, data
    def blob(self, _, start=0):
        print("asked", start, flush=True)
        for at in range(start, len(self.data), 100_000):
            yield self.data[at:at + 100_000]
            time.sleep(self.pause)
source = Source()
"""


def python(program: str, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """A process with `cache`, `described`, `source` and `Source(pause, data)` that does what `program` says."""
    here = (sys.executable, {"PYTHONPATH": str(CHECKOUT)})
    interpreter, found = user_python() if "user" in options else here
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {**options.pop("env", clean_environment()), **found}
    return subprocess.Popen([interpreter, "-c", PROGRAM + program, str(cache)], **{**pipes, **options, "env": env})


def test_processes_that_want_the_same_blob_at_once_fetch_it_once(tmp_path: Path) -> None:
    program = "assert fetch_blob(described, cache, Source(0.05)) == data\nprint('got', flush=True)"
    processes = [python(program, tmp_path / "cache") for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in outputs] == [""] * 4
    assert sorted(said for said, _ in outputs) == ["asked 0\ngot\n", "got\n", "got\n", "got\n"]
    assert files(BlobCache(tmp_path / "cache")) == [whole()]


def has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            if os.readlink(link) == str(path):
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_a_process_that_ends_lets_another_one_take_over(tmp_path: Path, number: signal.Signals) -> None:
    slow = "fetch_blob(described, cache, Source(300))"
    with python(slow, tmp_path / "cache") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "asked 0\n"
        with python("assert fetch_blob(described, cache, source) == data", tmp_path / "cache") as second:
            assert second.stdout is not None
            partial = tmp_path / "cache/partial" / Digest.of(DATA).hex
            wait_until(lambda: partial.stat().st_size >= 100_000 and has_open(second.pid, partial))
            assert second.poll() is None
            first.send_signal(number)
            # What the first one wrote isn't fetched again; a kill may come in the middle of a write.
            what, start = second.stdout.readline().split()
            assert what == "asked"
            assert 100_000 <= int(start) < len(DATA)
            assert second.wait(timeout=60) == 0
        first.wait(timeout=60)
        first.communicate()
    assert files(BlobCache(tmp_path / "cache")) == [whole()]


@pytest.mark.slow
def test_waiting_processes_try_themselves_when_the_first_one_fails(tmp_path: Path) -> None:
    bad = "fetch_blob(described, cache, Source(0.1, bytes(len(data))))"
    with python(bad, tmp_path / "cache") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "asked 0\n"  # it has locked the file
        with python("assert fetch_blob(described, cache, source) == data", tmp_path / "cache") as second:
            assert second.communicate(timeout=60) == ("asked 0\n", "")
        first.communicate(timeout=60)
        assert first.returncode == 1
    assert files(BlobCache(tmp_path / "cache")) == [whole()]


def test_a_file_of_its_own_is_deleted_unless_it_is_completed(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    with cache.own_partial(Digest.of(DATA)) as partial:
        partial.file.write(b"some")
        with cache.own_partial(Digest.of(DATA)) as other:  # by another run, say
            other.file.write(DATA)
            cache.complete(other, Digest.of(DATA))
        assert len(files(cache)) == 2
    assert files(cache) == [whole()]


def test_what_a_killed_process_has_left(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    partial = tmp_path / "cache/partial"
    with cache.partial(Digest("sha256", "3" * 64)):
        pass
    for name in ("old", "new"):
        (partial / f".{'0' * 64}.{name}").write_bytes(b"left")
    (partial / ("1" * 64)).write_bytes(b"to be resumed")
    for path in partial.iterdir():
        if path.name != f".{'0' * 64}.new":
            os.utime(path, (0, 0))
    with cache.partial(Digest("sha256", "2" * 64)):
        cache.delete_abandoned()
    assert sorted(path.name for path in partial.iterdir()) == [f".{'0' * 64}.new", "1" * 64]


def test_a_file_without_a_name(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    with cache.unnamed_file() as file:
        file.write(b"content")
        assert files(cache) == []
        assert os.pread(file.fileno(), 10, 0) == b"content"
