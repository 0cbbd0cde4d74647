from __future__ import annotations

import contextlib
import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.archives import stream
from provisioner.archives.tar import Archive, Entry
from provisioner.errors import MalformedImage
from provisioner.filesystem.kind import Kind
from tests.support.archives import END, pax, raw, special, tar
from tests.support.tools import need, run


def read(data: bytes, size: int = 1000) -> list[tuple[Entry, bytes]]:
    """The entries, each with its content, of an archive that comes in chunks of `size` bytes."""
    archive = Archive(data[at : at + size] for at in range(0, len(data), size))
    return [(entry, content_of(entry, archive)) for entry in archive]


def content_of(entry: Entry, archive: Archive) -> bytes:
    """The content with its holes filled."""
    stored = b"".join(map(bytes, archive.content()))
    if entry.extents is None:
        return stored
    whole, at = bytearray(entry.size), 0
    for offset, length in entry.extents:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    assert at == len(stored)
    return bytes(whole)


def one(archive: bytes) -> Entry:
    [(entry, _)] = read(archive)
    return entry


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_in_every_dialect(dialect: int) -> None:
    kinds = {
        Kind.FILE: tarfile.REGTYPE,
        Kind.DIRECTORY: tarfile.DIRTYPE,
        Kind.SYMLINK: tarfile.SYMTYPE,
        Kind.HARDLINK: tarfile.LNKTYPE,
        Kind.FIFO: tarfile.FIFOTYPE,
        Kind.CHARACTER: tarfile.CHRTYPE,
        Kind.BLOCK: tarfile.BLKTYPE,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for number, (kind, tar_type) in enumerate(kinds.items()):
            fields = {"uid": number, "gid": 100, "mode": 0o4755, "mtime": 1_700_000_000, "devmajor": 1, "devminor": 300}
            member = special(f"d/{kind.value}", tar_type, "d/target", **fields)
            member.size = 3 if kind is Kind.FILE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    found = read(buffer.getvalue())
    assert [entry.kind for entry, _ in found] == list(kinds)
    for number, (entry, content) in enumerate(found):
        assert (entry.path, entry.mode) == (f"d/{entry.kind.value}".encode(), 0o4755)
        assert (entry.uid, entry.gid, entry.mtime) == (number, 100, 1_700_000_000 * 10**9)
        assert entry.device == ((1, 300) if entry.kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0))
        assert (content, entry.size) == ((b"abc", 3) if entry.kind is Kind.FILE else (b"", 0))
        if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
            assert entry.target == b"d/target"


@pytest.mark.parametrize("dialect", ["v7", "ustar", "gnu", "pax", "oldgnu"])
def test_what_gnu_tar_writes(tmp_path_factory: pytest.TempPathFactory, dialect: str) -> None:
    need("tar")
    directory = tmp_path_factory.mktemp("files")
    long = "n" * (100 if dialect in ("v7", "ustar") else 200)
    long = long[: 90 if dialect == "v7" else None]
    (directory / long).write_bytes(b"x" * 1000)
    (directory / "link").symlink_to(long)
    archive = directory.with_suffix(".tar")
    run("tar", f"--format={dialect}", "-cf", archive, "-C", directory, ".")
    found = {
        entry.path: content if entry.kind is Kind.FILE else entry.target
        for entry, content in read(archive.read_bytes())
    }
    assert found == {b".": b"", b"./link": long.encode(), b"./" + long.encode(): b"x" * 1000}


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_of_gnu_tar_are_whole(tmp_path_factory: pytest.TempPathFactory, version: str) -> None:
    need("tar")
    directory = tmp_path_factory.mktemp("sparse")
    with (directory / "sparse").open("wb") as file:
        for offset in (0, 1 << 20, 3 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(4 << 20)
    options = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    run("tar", "--sparse", *options, "-cf", directory / "x.tar", "-C", directory, "sparse")
    data = (directory / "x.tar").read_bytes()
    assert len(data) < 1 << 20
    [(entry, content)] = read(data)
    assert (entry.path, entry.size) == (b"sparse", 4 << 20)
    assert content == (directory / "sparse").read_bytes()


def test_a_sparse_file_has_its_name_though_its_header_truncates_it(tmp_path: Path) -> None:
    """GNU tar leaves the first hundred bytes in the header: here those are the directory's name and its slash."""
    need("tar")
    name = "d" * 97 + "/file"
    (tmp_path / name).parent.mkdir()
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 20)
    run("tar", "--sparse", "--format=pax", "-cf", tmp_path / "x.tar", "-C", tmp_path, f"./{name}")
    entry = one((tmp_path / "x.tar").read_bytes())
    assert (entry.path, entry.kind, entry.size) == (f"./{name}".encode(), Kind.FILE, 1 << 20)


def test_an_entry_that_is_not_read_is_skipped() -> None:
    archive = tar(("a", b"1" * 5000), ("b", b"2"))
    assert [entry.path for entry in Archive([archive])] == [b"a", b"b"]


@given(st.binary(min_size=1, max_size=90).filter(lambda name: b"\0" not in name and not name.endswith(b"/")))
def test_names_are_bytes(name: bytes) -> None:
    assert one(raw(name) + END).path == name
    assert one(pax(path=name) + raw(b"x") + END).path == name
    assert one(raw(b"x", tarfile.SYMTYPE, target=name) + END).target == name


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
        (b"1700000000.1234567899", 1_700_000_000_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"0", 0),
        (b"999999999999999999", 2**63 - 1),
        (b"-999999999999999999.9", 1 - 2**63),
    ],
)
def test_times_are_exact_and_never_too_large(text: bytes, nanoseconds: int) -> None:
    assert one(pax(mtime=text) + raw(b"x") + END).mtime == nanoseconds


def test_numbers_in_base_256() -> None:
    entry = one(raw(b"x", uid=b"\x80\0\0\0\0\x0f\x42\x40", mtime=b"\xff" * 12) + END)
    assert (entry.uid, entry.mtime) == (1_000_000, -(10**9))


def test_numbers_may_have_nuls_in_front() -> None:
    """As in Go, with which images are built and unpacked: a reader that parses them as 0 sees other entries."""
    entry = one(raw(b"x", content=b"12345678", size=b"\0\0000000010 \0", uid=b"\0000005\0") + END)
    assert (entry.size, entry.uid) == (8, 5)


def test_an_empty_record_takes_one_back_but_an_attribute_may_be_empty() -> None:
    taken_back = pax(tarfile.XGLTYPE, uid=b"5", gid=b"6") + pax(path=b"", uid=b"", SCHILY_xattr_user_x=b"") + raw(b"x")
    entry = one(taken_back)
    assert (entry.path, entry.uid, entry.gid, entry.xattrs) == (b"x", 0, 6, ((b"user.x", b""),))


def test_a_global_header_does_not_describe_single_files() -> None:
    sparse = pax(tarfile.XGLTYPE, path=b"y", size=b"9", GNU_sparse_major=b"1", GNU_sparse_name=b"z", mtime=b"5")
    entry = one(sparse + raw(b"x", content=b"1") + END)
    assert (entry.path, entry.size, entry.extents, entry.mtime) == (b"x", 1, None, 5 * 10**9)


def test_a_global_header_does_not_slow_down_each_entry() -> None:
    """A megabyte of records, copied for each of a million entries, would take hours."""
    many = pax(tarfile.XGLTYPE, **{f"SCHILY_xattr_user_{number}": b"1" for number in range(10_000)}, mtime=b"5")
    data = many + raw(b"x") * 2 + END
    tracemalloc.start()
    try:
        entries = iter(Archive([data]))
        assert [(entry.xattrs, entry.mtime) for entry in (next(entries), next(entries))] == [((), 5 * 10**9)] * 2
        assert tracemalloc.get_traced_memory()[0] < 100_000  # the records that don't count are gone
    finally:
        tracemalloc.stop()


def test_zeros_may_follow_on_the_end() -> None:
    assert one(raw(b"x") + END + bytes(10_001)).path == b"x"


def test_an_archive_without_an_end_or_anything() -> None:
    assert one(raw(b"x")).path == b"x"
    assert read(b"") == read(END) == []


def test_an_error_of_the_stream_is_passed_on() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(100)
        raise MalformedImage("it is damaged")

    with pytest.raises(MalformedImage, match=r"^it is damaged$"):
        list(Archive(broken()))


def test_an_error_of_the_caller_is_passed_on() -> None:
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012
        for _ in Archive([raw(b"x") + END]):
            raise ValueError("mine")


@pytest.mark.slow
def test_the_memory_for_many_entries_is_flat() -> None:
    data = raw(b"x") * 20_000 + END
    tracemalloc.start()
    try:
        assert sum(1 for _ in Archive([data])) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=600), st.integers(0, 1600))
def test_rubbish_is_read_or_refused(rubbish: bytes, at: int) -> None:
    archive = raw(b"a", content=b"1") + pax(path=b"b", mtime=b"1.5") + raw(b"b") + END
    archive = archive[:at] + rubbish + archive[at + len(rubbish) :]
    with contextlib.suppress(MalformedImage):
        read(archive)


def test_as_many_zeros_as_the_archive_has_bytes_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small archive, 64 MiB; GNU tar writes up to 10 KiB."""
    monkeypatch.setattr(stream, "_PADDING", 1000)
    archive = tar(("x", bytes(50_000)))
    for size in (1, 1000, 100_000):
        chunks = [archive, *[bytes(size)] * ((len(archive) - 10240) // size)]
        assert len(list(Archive(chunks))) == 1
        with pytest.raises(MalformedImage, match="of zeros"):
            list(Archive([*chunks, *[bytes(size)] * (1000 + 100_000 // size)]))
    with pytest.raises(MalformedImage, match="there is more behind its end"):
        list(Archive([archive, bytes(1000), b"x"]))
