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


def listed(*files: tuple[str, bytes]) -> bytes:
    """Return the lines of `unsquashfs -lln` for files, each with its kind and its path."""
    return b"".join(line_of(kind, path) for kind, path in files)


def line_of(kind: str, path: bytes) -> bytes:
    size = b"%6d" % len(path.partition(b" -> ")[2]) if kind not in "bc" else b"   8,  1"
    return kind.encode() + b"rwxr-xr-x 0/0 %b 2026-11-26 10:40 squashfs-root%b\n" % (size, path)


LINES = rb"""/ D 1000 755 1 2
a\ b R 1001 4755 3 4 5 0
a\ b x security.capability=0sAQAA
a\ b x user.text=0ta\012b
a\ b x user.hex=0x0102
c L a\ b
d S 1002 777 0 0 a \ target
e B 1003 600 0 0 8 1
f C 1003 600 0 0 1 3
g I 1003 600 0 0 f
h R 1003 600 0 0 600 5 0
"""
LISTING = listed(
    ("d", b""),
    ("-", b"/a b"),
    ("-", b"/c"),
    ("l", b"/d -> a \\ target"),
    ("b", b"/e"),
    ("c", b"/f"),
    ("p", b"/g"),
    ("-", b"/h"),
)


def opened(*chunks: bytes, listing: bytes = LISTING) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(tar_of(chunks, [listing]))))


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
        list(tar_of([line + b"\n" + MARK + b"12345"], [listed(("-", b"/a"))]))


def test_lines_take_limited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_files, "_LINES_LIMIT", 1000)
    with pytest.raises(MachineError, match="too many files"):
        list(tar_of([b"a D 1 755 0 0\n"] * 100, [LISTING]))
    with pytest.raises(MachineError, match="too many files"):
        list(tar_of([LINES + MARK], [LISTING] * 100))


def test_the_target_of_a_symlink_has_the_size_that_is_listed() -> None:
    """A newline in it ends nothing, whatever follows."""
    targets = [b"x\nb R 1 644 0 0 5 0", b"x\nb R 1 644 0 0 5 0\nd L c", b"\n", b"\n" + MARK[:-1], b"a -> b\n"]
    for target in targets:
        content = b"a S 1 777 0 0 " + target + b"\nb\\ c S 1 777 0 0 y\nd L b\\ c\n" + MARK
        names = ("l", b"/a -> " + target), ("l", b"/b c -> y"), ("l", b"/d -> y")
        if MARK in target + b"\n":
            with pytest.raises(MalformedImage):
                opened(content, listing=listed(*names))
            continue
        archive = opened(content, listing=listed(*names))
        assert [(file.name, file.linkname) for file in archive] == [("a", target.decode()), ("b c", "y"), ("d", "b c")]


@pytest.mark.parametrize("newline", [b"\n", b"\\\n"], ids=["4.5", "4.6"])
def test_newlines_in_names(newline: bytes) -> None:
    content = b"a" + newline + b"b R 1 644 0 0 0 0\n" + MARK
    assert opened(content, listing=listed(("-", b"/a\nb"))).getnames() == ["a\nb"]
    linked = b"a" + newline + b"b R 1 644 0 0 0 0\nc L a" + newline + b"b\nd R 1 644 0 0 0 0\n" + MARK
    listing = listed(("-", b"/a\nb"), ("-", b"/c"), ("-", b"/d"))
    if newline == b"\n":
        with pytest.raises(MalformedImage) as caught:
            opened(linked, listing=listing)
        assert "archive the directory with tar" in caught.value.hint
    else:
        assert [file.linkname for file in opened(linked, listing=listing)] == ["", "a\nb", ""]


@pytest.mark.parametrize(
    "lines",
    [
        b"a D 1 755 0 0\nb S 1 777 0 0 x\nc R 1 644 0 0 0 0",
        b"a D 1 755 0 0\nb S 1 777 0 0 xy",
        b"a D 1 755 0 0",
        b"a D 1 755 0 0\nc S 1 777 0 0 x",
        b"b S 1 777 0 0 x\na D 1 755 0 0",
        b"a D 1 755 0 0\nb R 1 644 0 0 0 0\nc x user.a=1",
        b"a x user.a=1\na D 1 755 0 0\nb S 1 777 0 0 x",
        b"a S 1 777 0 0 x\nb S 1 777 0 0 x",
    ],
)
def test_what_contradicts_the_list_is_refused(lines: bytes) -> None:
    with pytest.raises(MalformedImage):
        list(tar_of([lines + b"\n" + MARK], [listed(("d", b"/a"), ("l", b"/b -> x"))]))


words = st.sampled_from([b"a", b"b\\ c", b"R", b"S", b"L", b"x", b"1", b"755", b"-1", b"99999999999999999999", b"\xff"])
lines = st.lists(st.lists(words, max_size=8).map(b" ".join), max_size=8).map(b"\n".join)


@given(lines | st.binary(max_size=200), st.binary(max_size=50), st.lists(words, max_size=8).map(b"/".join))
def test_anything_is_an_archive_or_refused(text: bytes, content: bytes, listing: bytes) -> None:
    paths = [(kind, b"/" + path.partition(b" ")[0]) for kind, path in zip("ld-l", text.split(b"\n"), strict=False)]
    for list_of_files in (listing, listed(*paths)):
        try:
            archive = b"".join(tar_of([text + b"\n" + MARK + content], [list_of_files]))
            list(Archive([archive]))
        except ProvisionError:
            pass
