"""Blobs in files: verified while others read them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage
from provisioner.image.digest import CHUNK, Digest
from provisioner.layers.workers import Workers
from provisioner.sources.file_blob import FileBlob, verifying

DATA = os.urandom(3 * CHUNK + 5)


@pytest.fixture
def file(tmp_path: Path) -> int:
    """An open file in which DATA begins at 1000. It is closed at the end of the process."""
    path = tmp_path / "x"
    path.write_bytes(b"#" * 1000 + DATA + b"#" * 1000)
    return os.open(path, os.O_RDONLY)


def test_it_is_read_and_verified(file: int) -> None:
    counts: list[int] = []
    blob = FileBlob(file, 1000, len(DATA), "x", counts.append, Digest.of(DATA))
    with verifying([blob]):
        assert b"".join(blob.chunks()) == DATA
        assert b"".join(blob.chunks()) == DATA
    assert sum(counts) == len(DATA)  # each byte once
    assert len(counts) == 4


def test_the_end_is_not_reached_before_it_is_verified(file: int) -> None:
    blob = FileBlob(file, 1000, len(DATA), "x", digest=Digest.of(DATA))
    ended = threading.Event()

    def read() -> None:
        assert b"".join(blob.chunks()) == DATA
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not ended.wait(0.2)
    blob.verify()
    assert ended.wait(60)
    reader.join()


@pytest.mark.parametrize("size", [len(DATA), 0])
def test_another_digest(file: int, size: int) -> None:
    blob = FileBlob(file, 1000, size, "x", digest=Digest.of(b"other"))
    with verifying([blob]), pytest.raises(MalformedImage, match="x does not match its digest"):
        list(blob.chunks())


def test_a_file_that_is_made_shorter(file: int) -> None:
    for digest in (None, Digest.of(DATA)):
        blob = FileBlob(file, 1000, len(DATA) + 5000, "x", digest=digest)
        with verifying([blob]), pytest.raises(MalformedImage, match=f"x ends after {len(DATA) + 1000} of"):
            list(blob.chunks())


def test_nothing_verifies_any_more_at_the_end(file: int) -> None:
    blobs = [FileBlob(file, 0, os.fstat(file).st_size, "x", digest=Digest.of(b"")) for _ in range(50)]
    with verifying(blobs):
        pass
    assert all(thread.name != "verify" for thread in threading.enumerate())


def test_workers_say_how_far_they_have_read(file: int) -> None:
    counts: list[int] = []
    size = len(DATA)
    blobs = {number: FileBlob(file, 1000, size, "x", counts.append, Digest.of(DATA)) for number in range(3)}

    def work(number: int, chunks):  # type: ignore[no-untyped-def]
        yield b"".join(chunks)

    with Workers(2, work) as workers, verifying(list(blobs.values())):
        workers.begin(blobs)
        for number in range(3):
            assert list(workers.results(number)) == [DATA]
    assert sum(counts) == 3 * size
