"""Hard links, and what stands in for them."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.filesystem.sync import call_syncfs
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links, Substitute
from provisioner.rootfs.tree import Tree
from tests.support.archives import Member, hard, special, tar
from tests.support.disks import disk
from tests.support.tools import CHECKOUT, need_root, without_links
from tests.support.trees import set_times, tree_of


def link(tree: Tree, path: bytes, target: bytes, links: Links) -> None:
    links.make(*tree.locate_hard_link(path, target), tree.overrides)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove os.link, as in Termux's Python. The kernel refuses in `test_refused_by_the_kernel`."""
    monkeypatch.delattr(os, "link")


def apply(root: Path, substitute: Substitute, *layers: list[Member]) -> tuple[int, ...]:
    """Apply layers and return the numbers of copies, copied bytes, reflinks and symlinks."""
    links = Links(substitute)
    with Tree(root) as opened:
        applier = LayerApplier(opened, Ownership(exact=False), links=links)
        for members in layers:
            applier.apply([tar(*members)])
        applier.finish()
        set_times(opened)
    return astuple(links.substitutes)[:4]


def test_a_link_shares_the_inode_and_its_metadata(tree: Tree, root: Path) -> None:
    tree.write(b"x", b"1")
    links = Links()
    link(tree, b"d/y", b"x", links)
    assert (root / "d/y").samefile(root / "x")
    assert astuple(links.substitutes)[:4] == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "refusal",
    [errno.EACCES, errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, None],
)
@pytest.mark.parametrize("substitute", ["auto", "copy"])
def test_where_links_are_refused_there_is_a_copy(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None, substitute: Substitute
) -> None:
    """All errors of file systems and kernels, simulated. None: Python has no os.link."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(refusal, "refused")

    if refusal is None:
        monkeypatch.delattr(os, "link")
    else:
        monkeypatch.setattr(os, "link", refuse)
    tree.write(b"x", b"12345", mode=0o4751)
    os.utime(root / "x", ns=(5, 1_234_567_890_123_456_789))
    metadata = FileMetadata(5, 6, 0o4751, None, ())
    tree.overrides.set((root / "x").stat().st_ino, metadata)
    if os.geteuid() == 0:
        os.chown(root / "x", 12, 34)
        os.chmod(root / "x", 0o4751)
    (root / "link").symlink_to("x")
    os.mkfifo(root / "fifo")
    links = Links(substitute)
    for name in (b"x", b"link", b"fifo"):
        link(tree, b"copies/" + name, name, links)
        old, new = (root / os.fsdecode(name)).lstat(), (root / "copies" / os.fsdecode(name)).lstat()
        kept = ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns")
        assert [getattr(old, field) for field in kept] == [getattr(new, field) for field in kept]
        assert not os.path.samestat(old, new)
        assert tree.overrides.get(new.st_ino) == tree.overrides.get(old.st_ino)
    assert tree.overrides.get((root / "copies/x").stat().st_ino) == metadata
    assert (root / "copies/x").read_bytes() == b"12345"
    assert os.readlink(root / "copies/link") == "x"
    assert astuple(links.substitutes)[:4] == (1, 5, 0, 0)


def test_other_refusals_are_errors(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", refuse)
    tree.write(b"x", b"1")
    with pytest.raises(OSError, match="full"):
        link(tree, b"y", b"x", Links())


BASE: list[Member] = [("a/b/x", b"one"), hard("y", "a/b/x"), hard("a/c/z", "y"), ("other", b"other"), ("s", "y")]


@pytest.mark.usefixtures("refused")
def test_symlinks_are_relative_and_lead_to_the_file(root: Path) -> None:
    assert apply(root, "symlink", [*BASE, hard("t", "s")]) == (0, 0, 0, 2)
    assert [os.readlink(root / name) for name in ("y", "a/c/z", "t")] == ["a/b/x", "../b/x", "y"]
    root.rename(root.with_name("moved"))
    assert (root.with_name("moved") / "a/c/z").read_bytes() == b"one"


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(
    ("upper", "content", "symlinks"),
    [
        ([("a/b/x", b"new")], {"a/b/x": b"new", "y": b"one", "a/c/z": b"one"}, 0),
        ([("a/b/.wh.x", b"")], {"y": b"one", "a/c/z": b"one"}, 0),
        ([(".wh.a", b"")], {"y": b"one"}, 0),
        ([("a", "nowhere")], {"y": b"one"}, 0),
        ([("a", b"file")], {"y": b"one", "a": b"file"}, 0),
        ([("a/b/x", "loop"), ("a/b/loop", "x")], {"y": b"one", "a/c/z": b"one"}, 0),
        ([("y", b"new")], {"a/b/x": b"one", "y": b"new", "a/c/z": b"one"}, 1),
        ([("y", None)], {"a/b/x": b"one", "a/c/z": b"one"}, 1),
        ([(".wh.y", b"")], {"a/b/x": b"one", "a/c/z": b"one"}, 1),
        ([special("a/b/x", tarfile.FIFOTYPE)], {"y": b"one", "a/c/z": b"one"}, 0),
        ([(".wh.a", b""), ("q/b/x", b"one"), ("a", "q")], {"q/b/x": b"one", "y": b"one"}, 0),
        ([special("y", tarfile.REGTYPE, mode=0o600)], {"y": b"", "a/b/x": b"one", "a/c/z": b"one"}, 1),
    ],
)
def test_what_becomes_of_the_first_name_is_nothing_to_the_others(
    root: Path, upper: list[Member], content: dict[str, bytes], symlinks: int
) -> None:
    """As with real links: an upper layer replaces or hides a name, not the file."""
    *_, made = apply(root, "symlink", BASE, upper)
    assert made == symlinks
    for name, expected in content.items():
        assert (root / name).read_bytes() == expected


@pytest.mark.usefixtures("refused")
def test_names_that_differ_in_owner_or_mode_are_no_symlinks(root: Path) -> None:
    same: list[Member] = [special("x", tarfile.REGTYPE, mode=0o644), hard("y", "x")]
    assert apply(root, "symlink", same, [special("x", tarfile.REGTYPE, mode=0o644, uid=5)])[3] == 0
    assert apply(root, "symlink", same, [special("x", tarfile.REGTYPE, mode=0o755)])[3] == 0
    assert apply(root, "symlink", same, [special("x", tarfile.REGTYPE, mode=0o644)])[3] == 1


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("substitute", ["copy", "symlink"])
def test_holes_stay_holes(tree: Tree, root: Path, substitute: Substitute) -> None:
    """Or a small image would fill the disk. One file begins and ends with a hole, the other is one hole."""
    with (root / "x").open("wb") as file:
        os.pwrite(file.fileno(), b"data" * 1024, 2**24)
        os.pwrite(file.fileno(), b"more" * 2**20, 2**30)
        file.truncate(2**32)
    with (root / "empty").open("wb") as file:
        file.truncate(2**40)
    links = Links(substitute)
    for name in (b"x", b"empty"):
        link(tree, name + b"2", name, links)
        assert (root / os.fsdecode(name + b"2")).stat().st_size == (root / os.fsdecode(name)).stat().st_size
    assert (root / "x2").stat().st_blocks * 512 < 2**23
    assert 2**22 + 2**12 <= links.substitutes.copied_bytes < 2**23
    with (root / "x2").open("rb") as file:
        assert os.pread(file.fileno(), 8192, 2**24 - 2048) == bytes(2048) + b"data" * 1024 + bytes(2048)
        assert os.pread(file.fileno(), 2**22 + 9, 2**30) == b"more" * 2**20 + bytes(9)
    links.finish(tree, tree.overrides)  # which doesn't read them for hours
    assert astuple(links.substitutes)[:4] == (
        (0, 0, 0, 2) if substitute == "symlink" else (2, links.substitutes.copied_bytes, 0, 0)
    )


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("replaced", ["x", "y"])
def test_a_hole_is_not_the_data(tree: Tree, root: Path, replaced: str) -> None:
    tree.write(b"x", b"1" * 4096)
    links = Links("symlink")
    link(tree, b"y", b"x", links)
    os.truncate(root / replaced, 0)
    os.truncate(root / replaced, 4096)
    links.finish(tree, tree.overrides)
    assert not (root / "y").is_symlink()


@pytest.mark.usefixtures("refused")
def test_a_copy_has_the_attributes(root: Path) -> None:
    header = special("x", tarfile.REGTYPE, mode=0o555)
    header.pax_headers = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.b": "2"}
    apply(root, "auto", [header, hard("y", "x")])
    assert os.getxattr(root / "y", "user.a") == b"1"
    assert os.listxattr(root / "y") == ["user.a"]


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("exact", [False, True])
def test_a_symlink_has_the_owner_of_its_file(place: Path, exact: bool) -> None:
    """In `place`, which is in memory, where inodes are not reused."""
    if exact:
        need_root()
    with Tree(place) as opened:
        applier = LayerApplier(opened, Ownership(exact), links=Links("symlink"))
        applier.apply([tar(special("x", tarfile.REGTYPE, mode=0o644, uid=5, mtime=7), hard("y", "x"))])
        applier.finish()
        state = (place / "y").lstat()
        assert stat.S_ISLNK(state.st_mode)
        assert state.st_mtime == 7
        assert state.st_uid == (5 if exact else os.geteuid())
        assert opened.overrides.get(state.st_ino) == (None if exact else FileMetadata(5, 0, 0o644, None, ()))


@pytest.mark.usefixtures("refused")
def test_symlinks_do_not_change_the_time_of_their_directory(root: Path) -> None:
    apply(root, "symlink", [special("d", tarfile.DIRTYPE, mode=0o755, mtime=5), ("x", b"1"), hard("d/y", "x")])
    assert (root / "d/y").is_symlink()
    assert (root / "d").stat().st_mtime == 5


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that has reflinks."""
    with disk(tmp_path, "btrfs") as mounted:
        yield mounted.path


def sync(path: Path) -> None:
    """Write the file system of `path` to the disk, and not those of other tests, which may cut the power of theirs."""
    with directory_descriptor(path) as opened:
        assert call_syncfs(opened)


@pytest.mark.usefixtures("refused")
def test_reflinks_go_before_copies_and_symlinks(btrfs: Path) -> None:
    size = 2**23
    for substitute, made in (("auto", (0, 0, 1, 0)), ("symlink", (0, 0, 1, 0)), ("copy", (1, size, 0, 0))):
        root = btrfs / substitute
        root.mkdir()
        sync(btrfs)
        before = os.statvfs(btrfs).f_bfree * 4096
        assert apply(root, substitute, [("x", os.urandom(size)), hard("y", "x")]) == made  # type: ignore[arg-type]
        assert (root / "x").read_bytes() == (root / "y").read_bytes()
        assert not (root / "x").samefile(root / "y")
        sync(btrfs)
        taken = before - os.statvfs(btrfs).f_bfree * 4096
        assert (taken > 1.5 * size) == (substitute == "copy")
        (root / "y").write_bytes(b"2")
        assert (root / "x").stat().st_size == size


SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from provisioner.layers.apply import LayerApplier
from provisioner.rootfs.links import Links
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
links = Links(sys.argv[2])
with Tree(Path(sys.argv[1])) as tree:
    applier = LayerApplier(tree, Ownership.in_directory(Path(sys.argv[1])), links=links)
    applier.apply([sys.stdin.buffer.read()])
    applier.finish()
names = ("copies", "copied_bytes", "reflinks", "symlinks")
print(json.dumps({name: getattr(links.substitutes, name) for name in names}))
"""


@pytest.mark.parametrize("substitute", ["auto", "copy", "symlink"])
def test_refused_by_the_kernel(root: Path, substitute: str) -> None:
    """A seccomp filter refuses link(2), as on Android."""
    command = without_links(sys.executable, "-c", SCRIPT, str(root), substitute)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, input=tar(*BASE), capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    made = {"copies": 2, "copied_bytes": 6, "reflinks": 0, "symlinks": 0}
    if substitute == "symlink":
        made = {"copies": 0, "copied_bytes": 0, "reflinks": 0, "symlinks": 2}
    assert json.loads(done.stdout) == made
    assert {name: entry.type for name, entry in tree_of(root).items() if name in ("y", "a/c/z")} == dict.fromkeys(
        ("y", "a/c/z"), "l" if substitute == "symlink" else "f"
    )
    assert (root / "a/c/z").read_bytes() == b"one"
    assert (root / "a/c/z").stat().st_nlink == 1


def test_copies_count_for_the_most_that_an_image_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten names of a file of one megabyte take ten megabytes as copies."""
    monkeypatch.delattr(os, "link")
    names = [hard(f"name{number}", "file") for number in range(9)]
    layer = tar(("file", bytes(1_000_000)), *names)
    for max_size, fits in ((11_000_000, True), (5_000_000, False)):
        root = tmp_path / str(max_size)
        root.mkdir()
        with Tree(root) as opened:
            applier = LayerApplier(opened, Ownership(exact=False), budget=Budget(max_size), links=Links("copy"))
            if fits:
                applier.apply([layer])
            else:
                with pytest.raises(MachineError, match="more than the 5,000,000 bytes"):
                    applier.apply([layer])
