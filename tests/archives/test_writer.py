"""The archives that ArchiveWriter writes, read by our own reader, GNU tar and bsdtar."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.archives.tar import Archive, Entry
from provisioner.archives.writer import ArchiveWriter
from provisioner.filesystem.kind import Kind
from tests.support.tools import need, need_root
from tests.support.trees import tree_of


def entry(path: bytes, kind: Kind = Kind.FILE, **fields: object) -> Entry:
    plain = Entry(path, kind, 0o644, 0, 0, 0, 0, b"", (0, 0), (), None)
    return plain._replace(**fields)  # type: ignore[arg-type]


def written(*files: tuple[Entry, bytes]) -> bytes:
    archive = bytearray()
    writer = ArchiveWriter(archive.extend)
    for item, content in files:
        writer.add(item, [content])
    writer.finish()
    return bytes(archive)


def read(archive: bytes) -> list[tuple[Entry, bytes]]:
    opened = Archive([archive])
    return [(item, b"".join(map(bytes, opened.content()))) for item in opened]


NAMES = st.binary(min_size=1, max_size=120).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
FILES = st.builds(
    entry,
    PATHS,
    st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.CHARACTER, Kind.BLOCK]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime=st.integers(-(2**62), 2**62),
    target=st.binary(max_size=300).filter(lambda target: 0 not in target),
    device=st.tuples(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1)),
    xattrs=st.dictionaries(
        st.sampled_from([b"user.a", b"security.capability", b"user.b c"]), st.binary(max_size=50)
    ).map(lambda found: tuple(sorted(found.items()))),
)


@given(st.lists(st.tuples(FILES, st.binary(max_size=1500)), max_size=5))
def test_what_is_read_is_what_was_written(files: list[tuple[Entry, bytes]]) -> None:
    expected = []
    for item, content in files:
        is_file = item.kind is Kind.FILE
        has_target = item.kind in (Kind.SYMLINK, Kind.HARDLINK)
        item = item._replace(
            size=len(content) if is_file else 0,
            target=item.target if has_target else b"",
            device=item.device if item.kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0),
        )
        expected.append((item, content if is_file else b""))
    assert read(written(*expected)) == expected


@given(st.lists(st.integers(1, 3000), max_size=12), st.integers(0, 2000))
def test_holes_are_kept(lengths: list[int], last_hole: int) -> None:
    extents, at = [], 0
    for hole, length in zip(lengths[::2], lengths[1::2], strict=False):
        extents.append((at + hole, length))
        at += hole + length
    data = bytes(range(256)) * 60
    content = data[: sum(length for _, length in extents)]
    item = entry(b"directory/file", size=at + last_hole, extents=tuple(extents))
    ((found, stored),) = read(written((item, content)))
    assert found.size == item.size
    assert tuple(pair for pair in found.extents or () if pair[1]) == tuple(extents)
    assert stored == content


def test_content_of_another_size_does_not_shift_what_follows() -> None:
    archive = bytearray()
    writer = ArchiveWriter(archive.extend)
    assert not writer.add(entry(b"short", size=3000), [b"x"])
    assert not writer.add(entry(b"long", size=2), [b"abc", b"def"])
    assert writer.add(entry(b"right", size=3), [b"a", b"bc"])
    writer.finish()
    assert [content for _, content in read(bytes(archive))] == [b"x" + bytes(2999), b"ab", b"abc"]


def test_a_size_above_eight_gigabytes_is_in_a_record() -> None:
    archive = bytearray()
    item = entry(b"large", size=9 << 30, extents=((8 << 30, 4),))
    ArchiveWriter(archive.extend).add(item, [b"data"])
    with tarfile.open(fileobj=BytesIO(bytes(archive))) as opened:
        assert opened.getmembers()[0].size == 9 << 30


MEMBERS = (
    (entry(b"a", Kind.DIRECTORY, mode=0o750, mtime=1_000_000_001), b""),
    (entry(b"a/\xc3\xbc new\nline", size=4, uid=70000, gid=3_000_000, mtime=1_700_000_000_123_456_789), b"text"),
    (entry(b"a/" + b"n" * 200, size=3), b"abc"),
    (entry(b"/".join([b"d" * 90] * 4), Kind.DIRECTORY, mode=0o755), b""),
    (entry(b"/".join([b"d" * 90] * 4) + b"/file", size=3, mode=0o4755), b"abc"),
    (entry(b"a/sparse", size=1 << 20, extents=((65536, 4096), (262144, 4096))), b"x" * 8192),
    (entry(b"a/all-hole", size=1 << 20, extents=()), b""),
    (entry(b"a/link", Kind.SYMLINK, target=b"t" * 150), b""),
    (entry(b"a/hard", Kind.HARDLINK, target=b"a/" + b"n" * 200), b""),
    (entry(b"a/fifo", Kind.FIFO, mtime=1_500_000_000_500_000_000), b""),
    (entry(b"a/null", Kind.CHARACTER, device=(1, 3)), b""),
)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_programs_extract_the_same(tmp_path: Path, program: str) -> None:
    need_root()
    need(program)
    (tmp_path / "out").mkdir()
    options = ["--same-owner", "--xattrs"] if program == "tar" else []
    command = [program, "-xp", *options, "-f", "-", "-C", str(tmp_path / "out")]
    done = subprocess.run(command, input=written(*MEMBERS), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    tree = tree_of(tmp_path / "out")
    assert tree["a"].mode == 0o750
    odd = tree["a/\xfc new\nline"]
    assert (odd.owner, odd.mtime) == ((70000, 3_000_000), 1_700_000_000_123_456_789)
    assert {tree["a/hard"].same_as, tree["a/" + "n" * 200].same_as} == {"", "a/hard"}
    assert tree["/".join(["d" * 90] * 4) + "/file"].mode == 0o4755
    assert (tmp_path / "out/a/sparse").read_bytes() == bytes(65536) + b"x" * 4096 + bytes(192512) + b"x" * 4096 + bytes(
        782336
    )
    assert (tmp_path / "out/a/sparse").stat().st_blocks < 100
    assert (tmp_path / "out/a/all-hole").stat().st_size == 1 << 20
    assert tree["a/link"].target == "t" * 150
    assert (tree["a/null"].type, tree["a/null"].device) == ("c", 0x103)
    assert tree["a/fifo"].type == "p"
