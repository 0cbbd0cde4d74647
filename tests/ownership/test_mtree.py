from __future__ import annotations

import base64
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from provisioner.errors import MachineError
from provisioner.filesystem.kind import Kind
from provisioner.ownership import mtree
from provisioner.ownership.digests import EMPTY
from provisioner.ownership.mtree import Header, MtreeEntry
from tests.support.tools import need

NAMES = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"\\"))
    .filter(lambda name: name not in (b".", b".."))
)
IDS = st.integers(0, 2**32 - 2)


def any_entry(kind: Kind) -> st.SearchStrategy[MtreeEntry]:
    is_file, is_device = kind is Kind.FILE, kind in (Kind.CHARACTER, Kind.BLOCK)
    return st.builds(
        MtreeEntry,
        *(NAMES, st.just(kind), st.integers(0, 0o7777), IDS, IDS),
        st.just((8, 300) if is_device else (0, 0)),
        st.integers(-(2**62), 2**62),
        st.integers(0, 2**63 - 1) if is_file else st.just(0),
        st.integers(1, 65000),
        NAMES if kind is Kind.SYMLINK else st.just(b""),
        st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)) if is_file else st.just(b""),
        st.lists(st.tuples(NAMES, st.binary(max_size=99)), max_size=2).map(tuple),
    )


ENTRIES = st.sampled_from([Kind.FILE, Kind.SYMLINK, Kind.CHARACTER, Kind.BLOCK, Kind.FIFO]).flatmap(any_entry)
TOP = MtreeEntry(b".", Kind.DIRECTORY, 0o755, 0, 0)


def record(*lines: bytes) -> bytes:
    return mtree.format_header(Header()) + mtree.format_entry(TOP) + b"".join(lines) + mtree.DIRECTORY_END


@given(NAMES)
def test_names_are_one_word_of_ascii_and_come_back(name: bytes) -> None:
    text = mtree.encode_name(name)
    assert re.fullmatch(rb"[!-~]+", text)
    assert not set(b"#=*?[") & set(text)
    assert mtree.decode_name(text) == name


def test_plain_names_stay_readable() -> None:
    assert mtree.encode_name(b"libstdc++.so.6@~-_:,{}") == b"libstdc++.so.6@~-_:,{}"
    assert mtree.encode_name(b"a b\n\\\xff") == rb"a\040b\012\134\377"


@given(st.lists(ENTRIES, max_size=5))
def test_what_is_written_is_read(entries: list[MtreeEntry]) -> None:
    text = record(*(mtree.format_xattrs(entry.xattrs) + mtree.format_entry(entry) for entry in entries))
    assert list(mtree.parse_entries(io.BytesIO(text))) == [TOP, *entries, None]


@given(st.integers(-(2**62), 2**62), st.booleans())
def test_what_the_header_says_is_read(written: int, has_owners: bool) -> None:
    header = Header(written, has_owners)
    signature, line = mtree.format_header(header).splitlines(keepends=True)
    assert signature == b"#mtree\n"
    assert mtree.parse_header(line) == header


def test_a_record_of_an_older_version_has_no_digests() -> None:
    line = b"a type=file mode=0644 uid=1 gid=2 time=3.000000004 size=5 nlink=2\n"
    assert mtree.parse_header(line) == Header(None, False)
    _, entry, _ = mtree.parse_entries(io.BytesIO(record(line)))
    assert entry == MtreeEntry(b"a", Kind.FILE, 0o644, 1, 2, mtime=3_000_000_004, size=5, links=2)


@settings(max_examples=25, deadline=None)
@given(NAMES, st.binary(min_size=1, max_size=99).map(lambda target: target.replace(b"\0", b"0")))
def test_bsdtar_reads_the_same_names(name: bytes, target: bytes) -> None:
    """The names are compared in an archive that bsdtar makes, since its list doesn't show all bytes."""
    need("bsdtar")
    assume(not name.startswith(b"\\"))  # libarchive 3.7 and later leave it out
    inner = mtree.format_entry(MtreeEntry(b"inner", Kind.FILE, 0o644, 0, 0))
    text = record(
        mtree.format_entry(MtreeEntry(name, Kind.DIRECTORY, 0o700, 1, 2)),
        inner,
        mtree.DIRECTORY_END,
        mtree.format_entry(MtreeEntry(b"zz" + name[:200], Kind.SYMLINK, 0o777, 3, 4, target=target)),
    )
    members = read_by_bsdtar(text)
    names = [member.name.encode("utf-8", "surrogateescape") for member in members]
    assert names == [b".", name, name + b"/inner", b"zz" + name[:200]]
    assert members[3].linkname.encode("utf-8", "surrogateescape") == target


def read_by_bsdtar(text: bytes) -> list[tarfile.TarInfo]:
    command = ["bsdtar", "-cf", "-", "--format=pax", "--options=pax:hdrcharset=BINARY", "@-"]
    done = subprocess.run(command, input=text, capture_output=True, check=False, cwd="/proc")
    assert (done.returncode, done.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(done.stdout), errors="surrogateescape") as archive:
        return archive.getmembers()


def test_bsdtar_reads_the_keywords() -> None:
    """It leaves devices that don't exist out of an archive; its list of them is in test_record.py."""
    need("bsdtar")
    first = MtreeEntry(b"a", Kind.FILE, 0o4755, 12, 34, mtime=1_234_567_890_000_000_005, size=12345, digest=EMPTY)
    lines = [
        mtree.format_entry(first),
        mtree.format_entry(MtreeEntry(b"b", Kind.FILE, 0o660, 0, 6, mtime=-1_500_000_000)),
        mtree.format_entry(MtreeEntry(b"c", Kind.CHARACTER, 0o666, 0, 0, (1, 3))),
        mtree.format_xattrs([(b"user.a b", b"\0\xff")]),
        mtree.format_entry(MtreeEntry(b"f", Kind.FIFO, 0o604, 2**32 - 2, 1, links=2)),
    ]
    members = read_by_bsdtar(record(*lines))
    assert [(m.name, m.type, m.mode, m.uid, m.gid) for m in members] == [
        (".", tarfile.DIRTYPE, 0o755, 0, 0),
        ("a", tarfile.REGTYPE, 0o4755, 12, 34),
        ("b", tarfile.REGTYPE, 0o660, 0, 6),
        ("f", tarfile.FIFOTYPE, 0o604, 2**32 - 2, 1),
    ]
    assert (members[1].size, members[1].pax_headers["mtime"]) == (12345, "1234567890.000000005")
    # bsdtar writes the seconds below and the nanoseconds above them, as it reads them.
    assert members[2].mtime == -2.5


def test_attributes_are_comments_in_base64() -> None:
    capability = b"\1\0\0\2\0\x20" + bytes(14)
    text = mtree.format_xattrs([(b"security.capability", capability), (b"user.x y", b"")])
    first, second = text.splitlines()
    assert first == b"# xattr.security.capability=" + base64.b64encode(capability)
    assert second == rb"# xattr.user.x\040y="


def test_attributes_that_no_linux_takes_are_left_out() -> None:
    """bsdtar refuses lines of more than a MiB."""
    assert mtree.format_xattrs([(b"user.x", bytes(65537))]) == b""
    assert mtree.format_xattrs([(b"user.x", bytes(65536))])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        mtree.format_header(Header()),
        record()[:-3],
        record(b"x\n"),
        record(b"x type=file mode=9 uid=0 gid=0\n"),
        record(b"x type=file mode=644 uid=0\n"),
        record(b"x type=char mode=644 uid=0 gid=0 device=native,1\n"),
        record(b"\n"),
        record(b"a/b type=file mode=0644 uid=0 gid=0 time=0.000000000 size=0\n"),
        record(rb"..\057a type=file mode=0644 uid=0 gid=0 time=0.000000000 size=0" + b"\n"),
        record(b".. type=file mode=0644 uid=0 gid=0 time=0.000000000 size=0\n"),
        record(b". type=file mode=0644 uid=0 gid=0 time=0.000000000 size=0\n"),
        record(rb"a\000 type=file mode=0644 uid=0 gid=0 time=0.000000000 size=0" + b"\n"),
        record(b"# xattr.user.a=?\n"),
        record()[len(b"#mtree\n") :].replace(b". ", b"x ", 1),
    ],
)
def test_a_damaged_record_is_an_error(text: bytes) -> None:
    with pytest.raises(MachineError, match="damaged"):
        list(mtree.parse_entries(io.BytesIO(text)))


def test_nothing_is_read_behind_the_end(tmp_path: Path) -> None:
    assert list(mtree.parse_entries(io.BytesIO(record() + b"nonsense\n"))) == [TOP, None]
