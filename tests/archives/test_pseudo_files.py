"""What unsquashfs writes of a squashfs, as a tar archive."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.archives import pseudo_files
from provisioner.archives.pseudo_files import tar_of
from provisioner.archives.tar import Archive
from provisioner.errors import MachineError, MalformedImage, ProvisionError

MARK = b"#\n# START OF DATA - DO NOT MODIFY\n#\n"
LINES = rb"""/ D 1000 755 1 2
a\ b R 1001 4755 3 4 5 0
c L a\ b
d S 1002 777 0 0 a \ target
e B 1003 600 0 0 8 1
f C 1003 600 0 0 1 3
g I 1003 600 0 0 f
h R 1003 600 0 0 600 5 0
a\ b x security.capability=0sAQAA
a\ b x user.text=0ta\012b
a\ b x user.hex=0x0102
"""


def opened(*chunks: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(tar_of(chunks))))


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_each_kind_of_file(size: int) -> None:
    content = LINES + MARK + b"12345" + b"x" * 600
    archive = opened(*(content[at : at + size] for at in range(0, len(content), size)))
    found = {member.name: member for member in archive}
    assert list(found) == [".", "a b", "c", "d", "e", "f", "g", "h"]
    top, file = found["."], found["a b"]
    assert (top.isdir(), top.mode, top.uid, top.gid, top.mtime) == (True, 0o755, 1, 2, 1000)
    assert (file.mode, file.uid, file.gid, file.size) == (0o4755, 3, 4, 5)
    assert file.pax_headers["SCHILY.xattr.security.capability"] == "\1\0\0"
    assert file.pax_headers["SCHILY.xattr.user.text"] == "a\nb"
    assert file.pax_headers["SCHILY.xattr.user.hex"] == "\1\2"
    assert (found["c"].islnk(), found["c"].linkname) == (True, "a b")
    assert (found["d"].issym(), found["d"].linkname) == (True, r"a \ target")
    assert (found["e"].isblk(), found["e"].devmajor, found["e"].devminor) == (True, 8, 1)
    assert (found["f"].ischr(), found["g"].isfifo()) == (True, True)
    assert archive.extractfile("h").read() == b"x" * 600  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        b"a R 1",
        b"a R x 644 0 0 1 0",
        b"a Q 1 644 0 0",
        b"a",
        b" ",
        b"a R 1 644 0 0 5 9",
        b"a R 1 644 0 0 600 0",
        b"a D",
    ],
)
def test_what_is_not_known_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedImage):
        list(tar_of([line + b"\n" + MARK + b"12345"]))


def test_lines_take_limited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_files, "_LINES_LIMIT", 1000)
    with pytest.raises(MachineError, match="too many files"):
        list(tar_of([b"a D 1 755 0 0\n"] * 100))


words = st.sampled_from([b"a", b"b\\ c", b"R", b"S", b"L", b"x", b"1", b"755", b"-1", b"99999999999999999999", b"\xff"])
lines = st.lists(st.lists(words, max_size=8).map(b" ".join), max_size=8).map(b"\n".join)


@given(lines | st.binary(max_size=200), st.binary(max_size=50))
def test_anything_is_an_archive_or_refused(text: bytes, content: bytes) -> None:
    try:
        archive = b"".join(tar_of([text + b"\n" + MARK + content]))
        list(Archive([archive]))
    except ProvisionError:
        pass
