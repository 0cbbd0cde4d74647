from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MachineError, MalformedImage
from provisioner.rootfs.links import Links
from provisioner.rootfs.paths import split_path
from provisioner.rootfs.tree import Place, Tree, tree_errors
from tests.support.leftovers import open_descriptors
from tests.support.tools import need_root

# Paths


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"a/b", [b"a", b"b"]),
        (b"./a//b/./", [b"a", b"b"]),
        (b"/a", [b"a"]),
        (b".", []),
        (b"", []),
        (b"/", []),
        (b"...", [b"..."]),
        (b"n" * 255, [b"n" * 255]),
        (b"a/../b", [b"b"]),
        (b"/a/b/./..//../c/", [b"c"]),
        (b"a/..", []),
        (b"a/...", [b"a", b"..."]),
    ],
)
def test_paths_are_split(path: bytes, names: list[bytes]) -> None:
    assert split_path(path) == names


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"..", "climbs out"),
        (b"a/../../b", "climbs out"),
        (b"/../b", "climbs out"),
        (b"a\0", "NUL"),
        (b"n" * 256, "256 bytes"),
    ],
)
def test_other_paths_are_refused(path: bytes, why: str) -> None:
    with pytest.raises(MalformedImage, match=why):
        split_path(path)


@given(st.lists(st.sampled_from([b"..", b".", b"", b"a", b"b\0", b"c" * 300]), max_size=6).map(b"/".join))
def test_no_path_climbs(path: bytes) -> None:
    try:
        names = split_path(path)
    except MalformedImage:
        return
    assert not {b"", b".", b".."} & set(names)
    assert (b"/".join(names) or b".") == os.path.normpath(b"./" + path)


# Places


def test_a_place_is_free_of_symlinks_and_its_parents_are_made(tree: Tree, root: Path) -> None:
    (root / "link").symlink_to("/real/./deep/..")
    place = tree.locate(b"link/new/x")
    assert place.path == b"real/new/x"
    assert stat.S_IMODE((root / "real/new").stat().st_mode) == 0o755
    assert tree.locate(b"link").path == b"link"


@pytest.mark.parametrize("names", [1, 2, 50, 1600])
def test_a_lookup_through_symlinks_takes_a_bounded_number_of_steps(
    tree: Tree, root: Path, names: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link of a chain leads through `names` names, and each entry is looked up through another chain."""
    (root / "d").mkdir()
    previous = "d"
    for number in range(39):
        (root / f"l{number}").symlink_to("d/../" * (names // 2) + previous)
        previous = f"l{number}"
    opened: list[object] = []
    real_open = os.open

    def count(*args: Any, **options: Any) -> int:
        opened.append(args)
        return real_open(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", count)
        try:
            assert tree.locate(f"{previous}/x".encode()).path == b"d/x"
            assert 39 * names < 1024
        except MalformedImage as error:
            assert "more than 1024 names" in error.message  # noqa: PT017  real images stay far below
            assert 39 * names > 1024
    assert len(opened) < 1200


def test_a_deep_path_may_be_behind_a_symlink(tree: Tree) -> None:
    link = tree.locate_free(b"link")
    os.symlink(b"d/" * 200, link.name, dir_fd=link.directory)
    assert tree.locate(b"link/" + b"d/" * 400 + b"x").path == b"d/" * 600 + b"x"


def test_parents_are_open_to_all_whatever_the_umask(tree: Tree, root: Path) -> None:
    before = os.umask(0o077)
    try:
        tree.locate(b"a/b/x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o755


def test_a_place_that_must_be_there_is_not_made(tree: Tree, root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tree.locate(b"a/b", create=False)
    assert list(root.iterdir()) == []


def test_a_place_is_open_while_the_next_is_looked_up(tree: Tree, root: Path) -> None:
    """As the class promises, also when the number of open directories has reached its limit."""
    for number in range(200):
        tree.locate(b"d%d/x" % number)
    first = tree.locate(b"first/x")
    tree.locate(b"second/x")
    assert os.path.samestat(os.fstat(first.directory), (root / "first").stat())


def test_directories_do_not_stay_open(tree: Tree) -> None:
    before = len(open_descriptors())
    for number in range(500):
        tree.locate(b"d%d/x" % number)
        tree.resolve(b"d%d" % number)
    assert len(open_descriptors()) < before + 200


def test_nothing_stays_open_at_the_end(root: Path) -> None:
    before = open_descriptors()
    with Tree(root) as tree:
        for number in range(100):
            tree.write(b"d%d/e/x" % number, b"")
            tree.remove(tree.locate(b"d%d/e" % number))
            tree.read(b"d%d/e/x" % number)
            list(tree.list_directory(b""))
    assert open_descriptors() == before


def test_a_directory_that_was_replaced_is_looked_up_anew(tree: Tree, root: Path) -> None:
    tree.write(b"link/x", b"1")
    tree.remove(tree.locate(b"link"))
    (root / "other").mkdir()
    os.symlink("other", root / "link")
    tree.write(b"link/x", b"2")
    assert (root / "other/x").read_bytes() == b"2"


# Files and directories


def test_a_file_takes_the_place_of_anything(tree: Tree, root: Path) -> None:
    (root / "dir/full").mkdir(parents=True)
    (root / "link").symlink_to("dir")
    (root / "file").write_text("old")
    (root / "second").hardlink_to(root / "file")
    for name in (b"dir", b"link", b"file"):
        tree.write(name, b"new")
        assert (root / os.fsdecode(name)).read_bytes() == b"new"
    assert (root / "second").read_text() == "old"


def test_a_directory_stays_and_anything_else_makes_room(tree: Tree, root: Path) -> None:
    (root / "dir/kept").mkdir(parents=True)
    (root / "file").write_text("x")
    (root / "link").symlink_to("dir")
    for name in (b"dir", b"file", b"link"):
        place, directory = tree.open_directory(name)
        os.close(directory)
        assert place.path == name
    assert (root / "dir/kept").is_dir()
    assert [(root / name).is_dir() and not (root / name).is_symlink() for name in ("file", "link")] == [True, True]


def test_the_root_is_a_directory_that_stays(tree: Tree, root: Path) -> None:
    place, directory = tree.open_directory(b"./")
    assert os.path.samestat(os.fstat(directory), root.stat())
    os.close(directory)
    assert place.path == b""
    for refused in (tree.create_file, tree.locate_free):
        with pytest.raises(MalformedImage, match="root"):
            refused(b".")


def test_write_sets_the_mode_whatever_the_umask(tree: Tree, root: Path) -> None:
    before = os.umask(0o077)
    try:
        tree.write(b"x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "x").stat().st_mode) == 0o644


def test_files_without_an_entry_have_no_overrides(tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that provision adds and implied directories, whose inodes may be those of removed files."""
    forgotten: list[int] = []
    monkeypatch.setattr(tree.overrides, "forget", lambda file: forgotten.append(os.fstat(file).st_ino))
    tree.write(b"sub/x", b"")
    assert forgotten == [(root / name).stat().st_ino for name in ("sub", "sub/x")]


def test_root_is_the_owner_even_where_directories_hand_down_their_group(tree: Tree, root: Path) -> None:
    need_root()
    os.chown(root, 0, 5)
    root.chmod(0o2755)
    tree.write(b"sub/x", b"")
    tree.write(b"x", b"")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in root.rglob("*")} == {(0, 0)}


def test_removing_something_makes_overrides_stale(tree: Tree) -> None:
    tree.remove(tree.locate(b"x"))
    assert not tree.overrides.stale
    tree.write(b"x", b"")
    tree.remove(tree.locate(b"x"))
    assert tree.overrides.stale


# Hard links


def test_a_pair_is_the_source_and_a_free_place(tree: Tree, root: Path) -> None:
    tree.write(b"x", b"1")
    tree.write(b"d/y", b"2")
    source, place = tree.locate_hard_link(b"d/y", b"x")
    assert (source.path, place.path) == (b"x", b"d/y")
    assert stat.S_ISREG(tree.lstat(source).st_mode)
    assert os.listdir(root / "d") == []


def test_a_name_is_no_pair(tree: Tree, root: Path) -> None:
    """A link to itself leaves the file as it is."""
    tree.write(b"d/x", b"1")
    (root / "link").symlink_to("d")
    source, place = tree.locate_hard_link(b"link/x", b"d/x")
    assert source.path == place.path == b"d/x"
    assert (root / "d/x").read_bytes() == b"1"


# Reading


def test_reading_follows_symlinks_inside(tree: Tree, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root-secret").write_text("outside")
    tree.write(b"usr/lib/os-release", b"ID=x")
    (root / "usr/lib/real").mkdir()
    for name, target in {
        "relative": "usr/lib/os-release",
        "absolute": "/usr/lib/os-release",
        "chain": "relative",
        "above": "../../../usr/lib/os-release",
        "l": "usr/lib/real",
        "behind": "l/../os-release",
    }.items():
        (root / name).symlink_to(target)
        if name != "l":
            assert tree.read(name.encode()) == b"ID=x", name
    for name, target in {"out": str(tmp_path / "secret"), "up": "../secret", "beside": "../root-secret"}.items():
        (root / name).symlink_to(target)
        assert tree.read(name.encode()) is None


def test_reading_what_is_no_file(tree: Tree, root: Path) -> None:
    (root / "dir").mkdir()
    (root / "file").touch()
    os.mkfifo(root / "fifo")
    links = {"loop": "loop", "a": "b", "b": "a/x", "long": "n" * 300, "up": "dir/..", "root": "/", "gone": "no"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    for name in (*links, "dir", "fifo", "never", "file/x", "loop/x", "long/x", "never/x", "", "."):
        assert tree.read(name.encode()) is None, name


def test_reading_has_a_limit(tree: Tree) -> None:
    tree.write(b"x", b"12345")
    assert tree.read(b"x", 3) == b"123"


def test_where_directories_are(tree: Tree, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    for name, target in {"l": "/d", "loop": "loop", "gone": "no", "top": "/", "long": "n" * 300}.items():
        (root / name).symlink_to(target)
    (root / "file").touch()
    real = {b"l/e": b"d/e", b"d": b"d", b"": b"", b"top": b"", b"top/l/e/": b"d/e"}
    assert {path: tree.resolve(path) for path in real} == real
    assert [tree.resolve(path) for path in (b"loop", b"gone", b"file", b"no", b"long", b"l/no")] == [None] * 6


def test_children_are_those_of_a_directory(tree: Tree, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "l").symlink_to("d")
    assert list(tree.list_directory(b"d")) == [b"e"]
    assert sorted(tree.list_directory(b"")) == [b"d", b"l"]
    assert [list(tree.list_directory(path)) for path in (b"l", b"no", b"d/e/f/g")] == [[], [], []]


@pytest.mark.slow
def test_children_may_be_removed_one_by_one(tree: Tree, root: Path) -> None:
    for number in range(3000):
        (root / f"name-of-some-length-{number}").mkdir()
    for name in tree.list_directory(b""):
        tree.remove(tree.locate(name))
    assert os.listdir(root) == []


def test_removing_nothing_is_fine(tree: Tree) -> None:
    tree.remove(tree.locate(b"no"))


# Who is to blame


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.ELOOP])
def test_the_image_is_to_blame_for_its_names_and_links(number: int) -> None:
    with pytest.raises(MalformedImage, match=r"^write x: it is below"), tree_errors("write x"):
        raise OSError(number, "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO])
def test_the_machine_is_to_blame_for_the_rest(number: int) -> None:
    with pytest.raises(MachineError, match=r"^write x: "), tree_errors("write x"):
        raise OSError(number, "")


NAMES = st.sampled_from([b"a", b"b", b"c", b"a/b", b"b/a", b"a/b/c", b"c/a"])
TARGETS = st.sampled_from([b"a", b"b", b"..", b"/", b"../..", b"/b", b"a/../..", b"c/..", b"../outside", b"/a/b"])


@given(st.lists(st.tuples(st.sampled_from(["file", "dir", "link", "hard", "remove"]), NAMES, TARGETS), max_size=25))
def test_whatever_is_done_stays_inside(steps: list[tuple[str, bytes, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        root, outside = Path(base, "root"), Path(base, "outside")
        root.mkdir()
        outside.mkdir()
        with Tree(root) as tree:
            for step in steps:
                _do(tree, *step)
        assert sorted(os.listdir(base)) == ["outside", "root"]
        assert os.listdir(outside) == []


def _do(tree: Tree, what: str, path: bytes, target: bytes) -> None:
    """Do one step. The place that a method returns must be where it happened."""
    try:
        if what == "file":
            tree.write(path, b"x")
            return
        if what == "dir":
            place, directory = tree.open_directory(path)
            os.close(directory)
        elif what == "link":
            place = tree.locate_free(path)
            os.symlink(target, place.name, dir_fd=place.directory)
        elif what == "hard":
            source, place = tree.locate_hard_link(path, target)
            if source.path != place.path:
                Links().make(source, place, tree.overrides)
        else:
            tree.remove(tree.locate(path))
            return
    except MalformedImage:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        return
    _assert_located(tree, place)


def _assert_located(tree: Tree, place: Place) -> None:
    located = tree.locate(place.path, create=False)
    assert located.path == place.path
    assert tree.lstat(located)
