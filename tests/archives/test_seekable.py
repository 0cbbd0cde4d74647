"""Reading an archive in a file: contents are skipped, and what is found is the same as in a stream."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.archives.seekable import SeekableReader
from provisioner.archives.tar import Archive
from provisioner.errors import MalformedImage
from tests.support.archives import pax, raw, tar


def entries(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and contents of the members, by where their contents begin."""
    path.write_bytes(data)
    with path.open("rb") as file:
        reader = SeekableReader(file.fileno())
        return [(entry.path, os.pread(file.fileno(), entry.size, reader.position)) for entry in Archive((), reader)]


@given(
    st.lists(st.tuples(st.text("ab/", min_size=1), st.binary(max_size=40_000)), max_size=6), st.sampled_from([0, 1, 2])
)
def test_contents_are_where_it_says(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, bytes]], dialect: int
) -> None:
    members = [(f"{name.strip('/')}x", content) for name, content in files]
    data = tar(*members, dialect=dialect)
    found = entries(tmp_path_factory.mktemp("x") / "x", data)
    assert found == [(name.encode(), content) for name, content in members]
    assert [entry.path for entry in Archive([data])] == [name for name, _ in found]


def test_long_names(tmp_path: Path) -> None:
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert entries(tmp_path / "x", tar(("n" * 300, b"content"), ("o", b"other"), dialect=dialect)) == [
            (b"n" * 300, b"content"),
            (b"o", b"other"),
        ]
    assert entries(tmp_path / "x", pax(size=b"3") + raw(b"x", content=b"abc", size=b"0") + bytes(1024)) == [
        (b"x", b"abc")
    ]


def test_contents_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(raw(b"zeros", size=b"\x80" + (9 << 30).to_bytes(11, "big")))
        file.seek(9 << 30, os.SEEK_CUR)
        file.write(tar(("last", b"content")))
    read: list[int] = []

    def pread(file: int, size: int, offset: int) -> bytes:
        read.append(size)
        return original(file, size, offset)

    original = os.pread
    with path.open("rb") as opened, patch("os.pread", pread):
        assert [entry.path for entry in Archive((), SeekableReader(opened.fileno()))] == [b"zeros", b"last"]
    assert sum(read) < 100_000


@pytest.mark.parametrize("size", [100, 600, 1500])
def test_a_file_that_ends_early(tmp_path: Path, size: int) -> None:
    with pytest.raises(MalformedImage, match=r"ends in the middle of a (file|header)"):
        entries(tmp_path / "x", tar(("x", bytes(2000)))[:size])


def test_the_offset_of_the_descriptor_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(tar(("x", b"content")))
    with path.open("rb", buffering=0) as file:
        list(Archive((), SeekableReader(file.fileno())))
        assert file.tell() == 0
