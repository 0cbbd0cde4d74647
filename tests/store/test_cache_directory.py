"""The cache when others can touch it: links, files and folders of strangers, locks that nobody gives back."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.filesystem.trust import Untrusted
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.store import partial
from provisioner.store.blobs import BlobCache, BlobSource
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.download import fetch_blob
from provisioner.store.prune import in_use, list_files, prune
from tests.support.tools import need_root, own, user_id
from tests.support.waiting import wait_until

DATA = b"content of a blob"
DIGEST = Digest.of(DATA)
DESCRIPTOR = Descriptor("x", DIGEST, len(DATA))
STRANGER = 1234


class CountingSource(BlobSource):
    """Serves DATA and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        self.asked += 1
        yield DATA[start:]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def downloads(directory: Path) -> int:
    """Get the blob by a new cache; how often it was downloaded for that."""
    source = CountingSource()
    assert fetch_blob(DESCRIPTOR, BlobCache(directory), source) == DATA
    return source.asked


def test_all_that_is_made_is_for_this_user_alone(directory: Path) -> None:
    before = os.umask(0)
    try:
        with in_use(CacheDirectory(directory)):
            downloads(directory)
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            for path in directory.rglob("*"):
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    finally:
        os.umask(before)


def test_what_older_versions_have_made_is_used(directory: Path) -> None:
    """Their folders have the mode 0755 and their files 0644."""
    downloads(directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert downloads(directory) == 0


@pytest.mark.parametrize("folder", ["sha256", "partial"])
def test_a_folder_is_no_link(directory: Path, tmp_path: Path, folder: str) -> None:
    directory.mkdir()
    (tmp_path / "outside").mkdir()
    (directory / folder).symlink_to(tmp_path / "outside")
    with pytest.raises(MachineError, match=r"use the cache .*: Not a directory"):
        downloads(directory)
    assert os.listdir(tmp_path / "outside") == []


def test_a_blob_is_no_link(directory: Path, tmp_path: Path) -> None:
    (directory / "sha256").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(DATA)
    (directory / "sha256" / DIGEST.hex).symlink_to(tmp_path / "outside")
    assert downloads(directory) == 1
    assert not (directory / "sha256" / DIGEST.hex).is_symlink()


@pytest.mark.parametrize("to", ["outside", "nothing"])
def test_a_partial_file_is_no_link(directory: Path, tmp_path: Path, to: str) -> None:
    (directory / "partial").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"dear")
    (directory / "partial" / DIGEST.hex).symlink_to(tmp_path / to)
    assert downloads(directory) == 1
    assert (tmp_path / "outside").read_bytes() == b"dear"
    assert not (tmp_path / "nothing").exists()


def test_a_partial_file_is_no_other_file_s_second_name(directory: Path, tmp_path: Path) -> None:
    """Where root downloads into the cache of a user, that user could have linked a file of root there."""
    (directory / "partial").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"dear")
    os.link(tmp_path / "outside", directory / "partial" / DIGEST.hex)
    assert downloads(directory) == 1
    assert (tmp_path / "outside").read_bytes() == b"dear"


def test_a_fifo_is_not_waited_for(directory: Path) -> None:
    for folder in ("sha256", "partial"):
        (directory / folder).mkdir(parents=True)
        os.mkfifo(directory / folder / DIGEST.hex)
    assert downloads(directory) == 1


def test_a_file_that_a_stranger_may_write_to_is_not_used(directory: Path) -> None:
    """It could be changed after it was verified."""
    downloads(directory)
    (directory / "sha256" / DIGEST.hex).chmod(0o666)
    assert downloads(directory) == 1
    assert stat.S_IMODE((directory / "sha256" / DIGEST.hex).stat().st_mode) == 0o600


@pytest.mark.parametrize("folder", ["sha256", "partial"])
def test_nor_one_that_a_stranger_owns(directory: Path, folder: str) -> None:
    need_root()
    downloads(directory)
    (directory / "sha256" / DIGEST.hex).rename(directory / folder / DIGEST.hex)
    os.chown(directory / folder / DIGEST.hex, STRANGER, STRANGER)
    assert downloads(directory) == 1
    assert (directory / "sha256" / DIGEST.hex).stat().st_uid == 0


@pytest.mark.parametrize("part", ["", "sha256", "partial"])
@pytest.mark.parametrize("how", ["owner", "everybody", "sticky"])
def test_a_cache_of_strangers_is_refused(directory: Path, part: str, how: str) -> None:
    need_root()
    for folder in ("sha256", "partial"):
        (directory / folder).mkdir(parents=True)
    if how == "owner":
        os.chown(directory / part, STRANGER, STRANGER)
    else:
        (directory / part).chmod(0o1777 if how == "sticky" else 0o777)
    with pytest.raises(MachineError, match=f"use the cache {directory}: {directory}") as caught:
        downloads(directory)
    assert "chown -R 0" in caught.value.hint if how == "owner" else "chmod -R go-w" in caught.value.hint
    assert "--no-cache" in caught.value.hint
    with pytest.raises(MachineError, match=f"read the cache {directory}: {directory}"):
        prune(directory, 0)
    with in_use(CacheDirectory(directory)):  # nothing is made there, and nothing fails
        assert not (directory / "runs").exists() or part


def test_a_user_uses_no_cache_of_another_user(place: Path) -> None:
    """As one in /tmp that waits for somebody."""
    need_root()
    for folder in ("sha256", "partial"):
        (place / "cache" / folder).mkdir(parents=True)
    os.chown(place / "cache", STRANGER, STRANGER)
    os.seteuid(user_id())
    try:
        with pytest.raises(MachineError, match=f"{place}/cache belongs to the user {STRANGER}"):
            downloads(place / "cache")
    finally:
        os.seteuid(0)


def test_root_makes_nothing_in_a_strangers_directory(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    with pytest.raises(MachineError, match=f"{tmp_path}/theirs belongs to the user {STRANGER}"):
        downloads(tmp_path / "theirs/cache")
    assert os.listdir(tmp_path / "theirs") == []


def test_what_root_makes_in_a_users_cache_is_that_users(place: Path) -> None:
    """`sudo` may keep HOME: the user must be able to go on with what root has downloaded."""
    need_root()
    (place / "cache").mkdir()
    own(place / "cache")
    with in_use(CacheDirectory(place / "cache")):
        assert downloads(place / "cache") == 1
        assert {path.stat().st_uid for path in (place / "cache").rglob("*")} == {user_id()}
    os.seteuid(user_id())
    try:
        assert downloads(place / "cache") == 0
    finally:
        os.seteuid(0)


def test_a_cache_that_is_deleted_meanwhile_is_made_anew(directory: Path) -> None:
    cache = BlobCache(directory)
    for _ in range(2):
        source = CountingSource()
        assert fetch_blob(DESCRIPTOR, cache, source) == DATA
        assert source.asked == 1
        for folder in ("sha256", "partial"):
            for path in (directory / folder).iterdir():
                path.unlink()
            (directory / folder).rmdir()
        directory.rmdir()


def test_looking_makes_nothing(directory: Path) -> None:
    files = CacheDirectory(directory)
    assert files.files("sha256") == []
    with pytest.raises(FileNotFoundError):
        files.open("sha256", DIGEST.hex)
    assert not directory.exists()


def test_a_link_to_a_cache_is_followed_if_it_is_ones_own(tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to("elsewhere")
    (tmp_path / "elsewhere").mkdir()
    downloads(tmp_path / "cache")
    assert (tmp_path / "elsewhere/sha256").is_dir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "cache", STRANGER, STRANGER, follow_symlinks=False)
        with pytest.raises(Untrusted):
            CacheDirectory(tmp_path / "cache").folder("sha256")


# Locks that nobody gives back

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, 2); print(flush=True); sys.stdin.read()"


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """A process that holds the lock of a file, and does nothing with it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_who_waits_says_for_whom_and_gives_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(partial, "WAIT_SECONDS", 0.2)
    (directory / "partial").mkdir(parents=True)
    messages: list[str] = []
    with holding(directory / "partial" / DIGEST.hex) as holder:
        source = CountingSource()
        assert fetch_blob(DESCRIPTOR, BlobCache(directory, messages.append), source) == DATA
        assert source.asked == 1
        # The other's file is left to it; the blob is whole, and what was our own is gone.
        assert os.listdir(directory / "partial") == [DIGEST.hex]
        assert downloads(directory) == 0
    assert len(messages) == 2
    assert messages[0].startswith(f"waiting for process {holder} (python")
    assert f"blob {DIGEST.short}" in messages[0]
    assert "downloaded once more" in messages[1]


def test_a_copy_of_ones_own_that_fails_is_gone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "WAIT_SECONDS", 0.0)
    (directory / "partial").mkdir(parents=True)

    class Broken(CountingSource):
        def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
            yield DATA[:5]
            assert len(os.listdir(directory / "partial")) == 2
            assert [entry.kind for entry in list_files(directory)] == ["partial", "partial"]
            raise MachineError("broken")

    with holding(directory / "partial" / DIGEST.hex):
        with pytest.raises(MachineError, match="broken"):
            fetch_blob(DESCRIPTOR, BlobCache(directory), Broken())
        assert os.listdir(directory / "partial") == [DIGEST.hex]


def test_a_file_that_grows_is_waited_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the other takes, as long as something comes."""
    (directory / "partial").mkdir(parents=True)
    program = """
import fcntl, os, sys
file = open(sys.argv[1], "ab", buffering=0)
fcntl.flock(file, 2)
print(flush=True)
for byte in sys.argv[2].encode():
    sys.stdin.readline()
    file.write(bytes([byte]))
"""
    path = directory / "partial" / DIGEST.hex
    command = [sys.executable, "-c", program, str(path), DATA.decode()]

    class Clock:
        """One whose every pause takes nearly as long as nothing may come. A byte comes in each."""

        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, _: float) -> None:
            assert process.stdin is not None
            self.now += 0.9 * partial.WAIT_SECONDS
            size = path.stat().st_size
            process.stdin.write(b"\n")
            process.stdin.flush()
            if size + 1 == len(DATA):
                process.wait()
            wait_until(lambda: path.stat().st_size > size)

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(partial, "time", Clock())
        assert downloads(directory) == 0  # it has come as a whole by then
        assert process.wait() == 0
