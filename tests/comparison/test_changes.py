"""What was added, changed and deleted since the image was unpacked."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from provisioner.comparison.changes import find_changes
from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from tests.support.archives import Member, hard, special
from tests.support.containers import RUNTIMES, make_container
from tests.support.disks import tmpfs
from tests.support.small_directories import make_directory
from tests.support.tools import need_root, user_id

IMAGE: list[Member] = [
    ("bin/tool", b"tool"),
    ("etc/conf", b"conf"),
    ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    ("link", "bin/tool"),
    ("usr/share/doc/a", b"a"),
    ("usr/share/doc/b", b"b"),
    ("usr/share-b", b"sorted behind what is in share"),
    hard("usr/tool", "bin/tool"),
    ("large", bytes((1 << 20) + 1)),
    special("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    special("owned", tarfile.REGTYPE, uid=5, gid=6, mode=0o4751),
    special("closed", tarfile.REGTYPE, mode=0o400),
    special("readable", tarfile.DIRTYPE, mode=0o555),
]


@pytest.fixture(params=[False, True], ids=["user", "root"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A provisioned directory, whose files have the image's owners for root."""
    if request.param:
        need_root()
    return make_directory(tmp_path / "dir", IMAGE, exact=request.param)


def changes(directory: Path) -> list[str]:
    """The changes as `provision diff` shows them, with what has changed behind a colon."""
    with closing_descriptor(os.open(directory / ".provision", DIRECTORY)) as folder:
        return [
            f"{change.letter} /{os.fsdecode(change.path)}" + "".join(f":{aspect.value}" for aspect in change.aspects)
            for change in find_changes(folder, "dir")
        ]


def keep_time(path: Path, content: bytes) -> None:
    """Overwrite a file, and give it the time that it had."""
    state = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_nothing_has_changed(directory: Path) -> None:
    assert changes(directory) == []


def test_files_of_all_kinds(directory: Path) -> None:
    rootfs = directory / "rootfs"
    (rootfs / "bin/new").write_bytes(b"new")
    (rootfs / "bin/pipe").mkdir()
    os.mkfifo(rootfs / "bin/pipe/x")
    with socket.socket(socket.AF_UNIX) as listening, closing_descriptor(os.open(rootfs, DIRECTORY)) as here:
        listening.bind(f"/proc/self/fd/{here}/socket")
    (rootfs / "etc/conf").write_bytes(b"another")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "link").unlink()
    (rootfs / "link").symlink_to("etc")
    shutil.rmtree(rootfs / "usr/share/doc")
    (rootfs / "readable").chmod(0o711)
    (rootfs / "null").write_bytes(b"no placeholder")
    assert changes(directory) == [
        "C /bin",
        "A /bin/new",
        "A /bin/pipe",
        "A /bin/pipe/x",
        "C /etc",
        "C /etc/conf:content",
        "D /etc/passwd",
        "C /link:content",
        "C /null:type",
        "C /readable:mode",
        "A /socket",
        "C /usr",
        "C /usr/share",
        "D /usr/share/doc",
    ]


def test_other_types(directory: Path) -> None:
    """Of a directory that is something else now, only itself is listed."""
    rootfs = directory / "rootfs"
    shutil.rmtree(rootfs / "usr")
    (rootfs / "usr").symlink_to("bin")
    (rootfs / "link").unlink()
    (rootfs / "link").mkdir()
    (rootfs / "link/x").write_bytes(b"")
    assert changes(directory) == ["C /link:type", "A /link/x", "C /usr:type"]


def test_a_time_alone_is_no_change(directory: Path) -> None:
    os.utime(directory / "rootfs/etc/conf")
    (directory / "rootfs/etc/passwd").write_bytes((directory / "rootfs/etc/passwd").read_bytes())
    os.utime(directory / "rootfs/usr/share")
    assert changes(directory) == []


def test_a_change_that_size_and_time_do_not_show(directory: Path) -> None:
    """As with `touch -r`, `rsync -t` and files that are rewritten within the clock's tick."""
    keep_time(directory / "rootfs/etc/conf", b"c0nf")
    keep_time(directory / "rootfs/bin/tool", b"t00l")
    assert changes(directory) == [
        "C /bin",
        "C /bin/tool:content",
        "C /etc",
        "C /etc/conf:content",
        "C /usr",
        "C /usr/tool:content",
    ]


def test_files_that_nobody_touched_are_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.comparison.state.hash_file", lambda file: b"")
    assert changes(directory) == []


def test_a_copy_is_compared_by_content(directory: Path, tmp_path: Path) -> None:
    """All its files were written after the record."""
    shutil.copytree(directory, tmp_path / "copy", symlinks=True)
    for path in (tmp_path / "copy/rootfs/etc").iterdir():
        os.utime(path)
    assert not [line for line in changes(tmp_path / "copy") if "content" in line]
    keep_time(tmp_path / "copy/rootfs/etc/conf", b"c0nf")
    assert "C /etc/conf:content" in changes(tmp_path / "copy")


def test_a_large_file_is_compared_by_size_and_time(directory: Path) -> None:
    keep_time(directory / "rootfs/large", b"1" * ((1 << 20) + 1))
    assert changes(directory) == []
    os.utime(directory / "rootfs/large")
    assert changes(directory) == ["C /large:content"]


def test_modes_and_owners(directory: Path) -> None:
    rootfs = directory / "rootfs"
    (rootfs / "owned").chmod(0o755)
    (rootfs / "closed").chmod(0o640)
    assert changes(directory) == ["C /closed:mode", "C /owned:mode"]
    if os.geteuid() == 0:
        os.chown(rootfs / "etc/conf", 7, 8)
        assert "C /etc/conf:owner" in changes(directory)


@pytest.mark.parametrize("exact", [False, True])
def test_a_file_that_becomes_roots(tmp_path: Path, exact: bool) -> None:
    """That is a change only where the disk has had the image's owners."""
    need_root()
    directory = make_directory(tmp_path / "dir", IMAGE, exact=exact)
    os.chown(directory / "rootfs/owned", 0, 0)
    (directory / "rootfs/owned").chmod(0o4751)
    assert changes(directory) == (["C /owned:owner"] if exact else [])


def test_what_start_sh_writes_is_no_change_unless_edited(directory: Path) -> None:
    for place in (directory / "rootfs/etc/hosts", directory / ".provision/generated/hosts"):
        place.write_bytes(b"127.0.0.1 another\n")
    assert changes(directory) == []
    (directory / "rootfs/etc/hosts").write_bytes(b"127.0.0.1 edited\n")
    assert changes(directory) == ["C /etc", "C /etc/hosts:content"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_start_changes_nothing(place: Path, runtime: str) -> None:
    if runtime == "chroot":
        need_root()
    container = make_container(place / "container")
    members: list[Member] = [("bin/busybox", (container.rootfs / "bin/busybox").read_bytes())]
    directory = make_directory(place / "dir", members)
    (directory / "rootfs/bin/busybox").chmod(0o755)
    if runtime != "chroot" and os.geteuid() == 0:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, user_id(), user_id(), follow_symlinks=False)
    assert type(container)(directory).run(runtime, "/bin/busybox", "true").returncode == 0
    assert changes(directory) == ["C /bin", "C /bin/busybox:mode"]


def test_an_added_directory_with_the_name_of_a_mount_point(directory: Path) -> None:
    for name in ("proc", "tmp", "opt"):
        (directory / "rootfs" / name).mkdir()
    (directory / "rootfs/tmp/file").write_bytes(b"")
    assert changes(directory) == ["A /opt", "A /tmp", "A /tmp/file"]


def test_what_is_mounted_is_not_looked_at(directory: Path) -> None:
    place = directory / "rootfs/usr/share"
    with tmpfs(place):
        (place / "x").write_bytes(b"")
        assert changes(directory) == []


def test_a_fifo_in_place_of_a_generated_file_is_not_waited_for(directory: Path) -> None:
    (directory / "rootfs/etc/hosts").unlink()
    os.mkfifo(directory / "rootfs/etc/hosts")
    assert changes(directory) == ["C /etc", "C /etc/hosts:type"]


def test_a_record_of_an_older_version(directory: Path) -> None:
    """It has no digests: then size and time decide."""
    record = directory / ".provision/ownership.mtree"
    text = re.sub(rb" sha256digest=\w+|# written=.*\n", b"", record.read_bytes())
    assert text.startswith(b"#mtree\n. type=dir")
    record.write_bytes(text)
    assert changes(directory) == []
    keep_time(directory / "rootfs/etc/conf", b"c0nf")
    (directory / "rootfs/bin/tool").write_bytes(b"t00l")
    (directory / "rootfs/usr/share/doc/a").write_bytes(b"longer")
    assert [line for line in changes(directory) if "content" in line] == [
        "C /bin/tool:content",
        "C /usr/share/doc/a:content",
        "C /usr/tool:content",
    ]


def test_names_that_are_no_text(directory: Path) -> None:
    (directory / "rootfs" / os.fsdecode(b"\xff\n")).write_bytes(b"")
    assert changes(directory) == ["A /\udcff\n"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"..\n", b""),
        (b"conf type=", b"../conf type="),
        (b"conf type=", rb"\056\056\057x type="),
        (b"size=4 ", b"size=four "),
        (b" mode=", b" mode=8"),
        (b"sha256digest=", b"sha256digest=x"),
    ],
)
def test_a_record_that_is_damaged(directory: Path, old: bytes, new: bytes) -> None:
    record = directory / ".provision/ownership.mtree"
    text = record.read_bytes()
    assert old in text
    record.write_bytes(text.replace(old, new))
    with pytest.raises(MachineError, match="record is damaged"):
        changes(directory)


def test_without_a_record(directory: Path) -> None:
    (directory / ".provision/ownership.mtree").unlink()
    with pytest.raises(MachineError, match="dir has no ownership record"):
        changes(directory)


def test_what_can_not_be_read_is_compared_by_time(directory: Path) -> None:
    """As a file without read permission is for its user."""
    path = directory / "rootfs/etc/conf"
    keep_time(path, b"c0nf")
    path.chmod(0)
    content = [] if os.geteuid() else ["content"]
    assert changes(directory) == ["C /etc", ":".join(["C /etc/conf", *content, "mode"])]
    assert stat.S_IMODE(path.stat().st_mode) == 0


def test_hard_links_of_termux_proot_are_the_files_that_they_stand_for(directory: Path) -> None:
    """It moves the content to /.l2s, and makes symlinks of the names, by absolute paths."""
    rootfs = directory / "rootfs"
    place = rootfs / ".l2s"
    place.mkdir()
    for name in ("etc/conf", "usr/share/doc/a"):
        base = f".l2s.{Path(name).name}0001"
        (rootfs / name).rename(place / f"{base}.0002")
        (place / base).symlink_to(place / f"{base}.0002")
        (rootfs / name).symlink_to(place / base)
    (rootfs / "etc/another").symlink_to(place / ".l2s.conf0001")
    assert changes(directory) == ["C /etc", "A /etc/another"]
    keep_time(place / ".l2s.conf0001.0002", b"c0nf")
    (place / ".l2s.a0001.0002").unlink()
    assert changes(directory) == [
        "C /etc",
        "A /etc/another",
        "C /etc/conf:content",
        "C /usr",
        "C /usr/share",
        "C /usr/share/doc",
        "C /usr/share/doc/a:type",
    ]
