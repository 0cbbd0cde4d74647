"""Parts of the ownership record that are written while layers are unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.container_files import FAKEROOT_STATE, OWNERSHIP_RECORD
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.ownership import parts
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.parts import RecordParts, Share
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners, write_part
from provisioner.rootfs.tree import Tree

USER = Ownership(exact=False)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An open directory for parts, and a tree."""
    (tmp_path / "parts").mkdir()
    root = tmp_path / "root"
    for path in ("a/b/x", "a/b/y", "a/z", "c/d/e/f/g"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    with closing_descriptor(os.open(tmp_path / "parts", DIRECTORY)) as folder:
        yield folder, root


def _parts_of(folder: int, root: Path) -> RecordParts:
    made = RecordParts(folder)
    with closing_descriptor(os.open(root, DIRECTORY)) as opened:
        made.add(write_part(folder, b"one", opened, MetadataOverrides(), USER))
    return made


def _record(where: Path, root: Path, made: RecordParts | None) -> tuple[str, str]:
    where.mkdir()
    write_owners(where, root, MetadataOverrides(), USER, made)
    return re.sub("# written=.*", "", (where / OWNERSHIP_RECORD).read_text()), (where / FAKEROOT_STATE).read_text()


def test_a_part_is_copied_without_a_look_at_the_files(places: tuple[int, Path], tmp_path: Path) -> None:
    folder, root = places
    made = _parts_of(folder, root)
    expected = _record(tmp_path / "expected", root, None)
    assert _record(tmp_path / "same", root, made) == expected
    (root / "a/b/x").unlink()
    assert _record(tmp_path / "copied", root, made) == expected
    made.discard(b"a/b")
    assert _record(tmp_path / "new", root, made) == _record(tmp_path / "expected-now", root, None) != expected
    made.close()


def test_two_processes_write_the_lines_of_one_tree(places: tuple[int, Path], tmp_path: Path) -> None:
    """Each has those of its directories alone, and what is above them is the first one's."""
    folder, root = places
    for number in range(10):
        (root / f"usr/share/{number}/below").mkdir(parents=True)
        (root / f"usr/share/{number}/below/x").write_text(f"{number}")
    (root / "usr/share/x").write_text("x")
    expected = _record(tmp_path / "expected", root, None)
    made = RecordParts(folder)
    with closing_descriptor(os.open(root, DIRECTORY)) as opened:
        one, other = (
            write_part(folder, b"%d" % number, opened, MetadataOverrides(), USER, Share(number, 2)) for number in (0, 1)
        )
    inodes = {str(number): (root / f"usr/share/{number}").stat().st_ino for number in range(10)}
    has = [[number for number, inode in inodes.items() if inode in part.directories] for part in (one, other)]
    assert sorted(has[0] + has[1]) == sorted(inodes)
    assert len(has[0]) == len(has[1]) == 5
    above = {(root / path).stat().st_ino for path in ("", "usr", "usr/share")}
    assert not above & (one.directories.keys() | other.directories.keys())
    assert (root / "a/b").stat().st_ino in one.directories.keys() - other.directories.keys()
    made.add(one)
    made.add(other)
    for number in range(10):
        (root / f"usr/share/{number}/below/x").unlink()
    assert _record(tmp_path / "found", root, made) == expected
    made.close()


def test_a_file_with_two_names_is_looked_at(places: tuple[int, Path], tmp_path: Path) -> None:
    """Its line says how many names it has, and others of these may be gone."""
    folder, root = places
    os.link(root / "a/b/x", root / "c/d/link")
    made = _parts_of(folder, root)
    (root / "c/d/link").unlink()
    made.discard(b"c/d")
    assert _record(tmp_path / "found", root, made) == _record(tmp_path / "expected", root, None)
    made.close()


def test_of_many_directories_the_largest_are_known(
    places: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, root = places
    for number in range(300):
        (root / f"many/{number}").mkdir(parents=True)
    monkeypatch.setattr(parts, "_MAX_DIRECTORIES", 20)
    with closing_descriptor(os.open(root, DIRECTORY)) as opened:
        part = write_part(folder, b"one", opened, MetadataOverrides(), USER)
    assert len(part.directories) <= 20
    assert (root / "many").stat().st_ino in part.directories
    with_parts = RecordParts(folder)
    with_parts.add(part)
    with_parts.discard(b"many")
    assert _record(tmp_path / "found", root, with_parts) == _record(tmp_path / "expected", root, None)
    with_parts.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.write(b"a/b/new", b""),
        lambda tree: tree.symlink(b"a/b/new", b"x"),
        lambda tree: tree.remove(tree.locate(b"a/b/x", create=False)),
        lambda tree: tree.make_directory(b"a/b/new"),
        lambda tree: os.close(tree.open_directory(b"a/b")[1]),  # as if it were new
        lambda tree: (tree.resolve(b"a/b"), tree.remove(tree.locate(b"a/b/x"))),
        lambda tree: tree.locate_hard_link(b"c/link", b"a/b/x"),
    ],
)
def test_a_tree_discards_what_it_changes(places: tuple[int, Path], tmp_path: Path, change: object) -> None:
    folder, root = places
    with Tree(root) as tree:
        tree.record_parts = _parts_of(folder, root)
        assert callable(change)
        change(tree)
        (root / "a/b/y").write_text("longer than it was")
        found = _record(tmp_path / "found", root, tree.record_parts)
    assert found == _record(tmp_path / "expected", root, None)


def test_a_new_directory_has_no_lines_of_one_that_was_removed(places: tuple[int, Path]) -> None:
    """It may have its inode."""
    folder, root = places
    with Tree(root) as tree:
        tree.record_parts = _parts_of(folder, root)
        inode = (root / "c/d/e").stat().st_ino
        tree.make_directory(b"new/directory")
        with open(os.devnull, "wb") as nothing:
            assert tree.record_parts.copy(b"c/d/e", inode, nothing, nothing)
            assert not tree.record_parts.copy(b"new/directory", inode, nothing, nothing)
            os.close(tree.open_directory(b"other")[1])
            assert not tree.record_parts.copy(b"other", inode, nothing, nothing)
