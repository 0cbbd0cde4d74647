"""Layers that were unpacked apart and merged give what applying them in order gives."""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from provisioner.container_files import FAKEROOT_STATE, OWNERSHIP_RECORD
from provisioner.errors import MalformedImage
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.layers import merge
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.layer_tree import unpack_layer
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners
from provisioner.rootfs.links import Links, Substitute, Substitutes
from provisioner.rootfs.moving import move
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.archives import Member, hard, special, tar
from tests.support.tools import fast_directory, need_root
from tests.support.trees import Entry, tree_of

NOW = (int(time.time()) - 60) * 10**9
LAYER_COUNT = 3


@dataclass(frozen=True)
class Result:
    """What layers give."""

    error: str
    tree: dict[str, Entry]
    record: str
    state: list[str]
    spent: int
    substitutes: Substitutes = field(default_factory=Substitutes)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        yield Path(name)


def in_order(layers: list[bytes], exact: bool, substitute: Substitute = "auto") -> Result:
    """Apply archives to one tree, one after the other."""
    links = Links(substitute)

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        applier = LayerApplier(tree, ownership, budget=budget, links=links)
        for archive in layers:
            applier.apply([archive])
        applier.finish()

    return replace(_result(apply, exact), substitutes=links.substitutes)


def apart(
    layers: list[bytes], exact: bool, substitute: Substitute = "auto", *, is_shared: bool = False
) -> tuple[Result, list[bool]]:
    """Unpack archives apart and merge them, the lowest in two processes if `is_shared`.

    Returns also which of them were merged, or not unpacked again.
    """
    merged: list[bool] = []
    links = Links(substitute)

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        archives = [partial(iter, [archive]) for archive in layers]
        merged.extend(apply_apart(tree, archives, ownership, budget, scratch, substitute, links, is_shared=is_shared))

    return replace(_result(apply, exact), substitutes=links.substitutes), merged


def _result(apply: Any, exact: bool) -> Result:
    with place() as directory:
        (directory / "rootfs").mkdir()
        (directory / "owners").mkdir()
        ownership, budget, error = Ownership(exact), Budget(parts=9), ""
        with Tree(directory / "rootfs") as tree:
            try:
                apply(tree, ownership, budget, directory / "apart")
            except MalformedImage as raised:
                return Result(raised.message, {}, "", [], 0)
            _change(tree)
            write_owners(directory / "owners", directory / "rootfs", tree.overrides, ownership, tree.record_parts)
        record = re.sub("# written=.*\n", "", (directory / "owners" / OWNERSHIP_RECORD).read_text())
        state = (directory / "owners" / FAKEROOT_STATE).read_text()
        names = {str(path.lstat().st_ino): path.name for path in sorted((directory / "rootfs").rglob("*"))}
        names[str((directory / "rootfs").stat().st_ino)] = "."
        return Result(
            error,
            {
                path: replace(entry, mtime=min(entry.mtime, NOW))
                for path, entry in tree_of(directory / "rootfs").items()
            },
            re.sub(r"time=(\d+)\.\d+", lambda found: f"time={min(int(found[1]) * 10**9, NOW)}", record),
            [re.sub(r"dev=.*?,ino=(\d+)", lambda found: names[found[1]], line) for line in state.splitlines()],
            sum(budget._spent),
        )


def _change(tree: Tree) -> None:
    """Change the tree as the fixups do."""
    for path in (b"b/c", b"a/b/c"):
        with suppress(MalformedImage, OSError):
            tree.write(path, b"fixed", 0o640)
    with suppress(MalformedImage, OSError):
        tree.make_directory(b"a/c/new")


def _file(path: str, **fields: Any) -> tarfile.TarInfo:
    return special(path, tarfile.REGTYPE, **fields)


def _directory(path: str, **fields: Any) -> tarfile.TarInfo:
    return special(path, tarfile.DIRTYPE, mtime=5, **fields)


def _symlink(path: str, target: str) -> tarfile.TarInfo:
    return special(path, tarfile.SYMTYPE, target)


LOWER: list[Member] = [
    _directory("d"),
    ("d/x", b"x"),
    ("d/e/y", b"y"),
    ("d/e/f/z", b"z"),
    ("f", b"f"),
    _symlink("s", "d"),
    _symlink("t/s", "/d/e"),
    _symlink("dangling", "gone"),
    _symlink("top", "/"),
    _symlink("chain", "s"),
    hard("h", "f"),
    ("p/x", b"x"),
    ("p/y", b"y"),
    hard("q/x", "p/x"),
]
MERGED: dict[str, list[Member]] = {
    "nothing": [],
    "below a symlink": [("s/x", b"1"), _directory("s/new", mode=0o700), ("s/new/x", b"1"), ("s/e/f/z", b"1")],
    "below symlinks": [("t/s/new", b"1"), ("s/new/x", b"1"), ("t/s/f/new", b"1"), _symlink("s/y", "x")],
    "below a symlink, and elsewhere where it leads": [
        ("s/new", b"1"),
        ("d/newer", b"2"),
        ("s/e/1", b""),
        ("d/e/2", b""),
    ],
    "a directory where a symlink leads": [_directory("d/e", mode=0o700), ("s/e/new", b"1")],
    "new files": [("d/new", b"1"), ("new/d/x", b"1"), ("d/e/new/x", b"1")],
    "an entry of the root": [_directory(".", mode=0o700, uid=7)],
    "files are replaced": [("d/x", b"1"), ("f", b"2"), _symlink("d/e/y", "f"), hard("d/e/f/z", "f")],
    "a directory with other metadata": [_directory("d", mode=0o2700, uid=7, gid=8), ("d/e/y", b"1")],
    "a directory that was implied and is named later": [("d/e/f/new", b"1"), _directory("d", mode=0o700)],
    "other kinds": [_file("d"), _directory("f"), ("f/x", b"1"), _directory("s"), ("s/x", b"1")],
    "a file, then a directory": [_file("d"), _directory("d"), ("d/new", b"1")],
    "a symlink, then a directory": [_symlink("d", "t"), _directory("d"), ("d/new", b"1")],
    "whiteouts": [_file("d/.wh.x"), _file("d/e/.wh.f"), _file(".wh.s"), _file(".wh.nothing"), _file("d/.wh.nothing")],
    "whiteouts of what the layer has": [_directory("d"), ("d/new", b"1"), _file(".wh.d"), _file("f"), _file(".wh.f")],
    "whiteouts before what the layer has": [_file(".wh.d"), ("d/e/new", b"1"), _file(".wh.f"), _directory("f")],
    "opaque": [_directory("d"), ("d/new", b"1"), _file("d/.wh..wh..opq"), _directory("d/e")],
    "opaque, first": [_file("d/.wh..wh..opq"), ("d/e/new", b"1")],
    "all opaque": [_file(".wh..wh..opq"), ("d/new", b"1")],
    "opaque below nothing": [_file("new/.wh..wh..opq"), _directory("new")],
    "hard links to lower files": [hard("d/h", "d/e/y"), hard("i", "h"), hard("j", "i"), _file("d/e/.wh.y")],
    "a hard link to a file that is replaced": [hard("new", "d/x"), ("d/x", b"1"), hard("newer", "d/x")],
    "a hard link to a symlink": [hard("new", "s")],
    "a hard link in a new directory": [_directory("new"), hard("new/link", "d/x"), _directory("newer")],
    "one name of two is hidden": [_file("p/.wh.x")],
    "below a symlink, and in a new directory where it leads": [("s/new/1", b"1"), ("d/new/2", b"2")],
    "twice": [("f", b"1"), ("f", b"2"), ("new", b"1"), _symlink("new", "f"), hard("new", "f")],
}
IN_ORDER: dict[str, list[Member]] = {
    "below a symlink, and where it leads": [("s/new", b"1"), ("d/new", b"2")],
    "where a symlink leads, and below it": [("d/new", b"2"), ("s/new", b"1")],
    "a directory below a symlink, and where it leads": [_directory("d/e"), _directory("s/e", mode=0o700)],
    "a directory where a symlink leads, which no entry names": [("d/e/x", b"1"), _directory("s/e", mode=0o700)],
    "below a symlink that leads to what is replaced": [("t/s/new", b"1"), _file("d")],
    "below a symlink, with a whiteout": [("s/new", b"1"), _file("d/.wh.x")],
    "below a symlink to nothing": [("dangling/new", b"1")],
    "below a symlink to the root": [("top/new", b"1")],
    "below a symlink to a symlink": [("chain/new", b"1")],
    "below a symlink that is replaced": [("s/new", b"1"), _directory("s")],
    "below a symlink that is replaced by a file": [("s/new", b"1"), _file("s")],
    "below a symlink in a directory that is replaced": [_directory("t"), ("t/s/new", b"1"), _file("t")],
    "below its own symlink": [_symlink("n", "d"), ("n/new", b"1")],
    "a whiteout below a symlink": [_file("s/.wh.x")],
    "a whiteout below its own symlink": [_symlink("n", "d"), _file("n/.wh.x")],
    "opaque is a symlink": [_file("s/.wh..wh..opq")],
    "a whiteout of an implied directory": [("d/new", b"1"), _file(".wh.d")],
    "opaque above an implied directory": [("d/e/new", b"1"), _file("d/.wh..wh..opq")],
    "below its own symlink, with a whiteout elsewhere": [_symlink("n", "d"), ("n/new", b"1"), _file("p/.wh.y")],
    "a hard link that is replaced": [hard("new", "f"), _file("new")],
    "a hard link in a directory that is replaced": [_directory("n"), hard("n/new", "f"), _file("n")],
    "a hard link to itself": [hard("f", "f"), _file(".wh.f")],
    "a hard link below a symlink": [hard("new", "s/x")],
}
ERRORS: dict[str, list[Member]] = {
    "below a file": [("f/new", b"1")],
    "a hard link to what is hidden": [_file(".wh.f"), hard("new", "f")],
    "a hard link to what is in an opaque directory": [_file("d/.wh..wh..opq"), hard("new", "d/x")],
    "a hard link to what was replaced": [_file("d"), _directory("d"), hard("new", "d/x")],
    "a hard link to a directory": [hard("new", "d")],
    "a hard link to nothing": [hard("new", "nothing")],
    "a hard link above its target": [hard("d", "d/x")],
    "it climbs out": [("../x", b"1")],
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", [*MERGED, *IN_ORDER, *ERRORS])
def test_a_layer_gives_what_it_gives_in_order(name: str, exact: bool) -> None:
    if exact:
        need_root()
    layers = [tar(*LOWER), tar(*(MERGED | IN_ORDER | ERRORS)[name])]
    expected = in_order(layers, exact)
    found, merged = apart(layers, exact)
    assert found == expected
    assert bool(expected.error) == (name in ERRORS)
    assert merged == ([] if name in ERRORS else [True, name in MERGED])


def test_metadata_of_a_file_that_is_replaced_is_forgotten(tmp_path: Path) -> None:
    """A file of another tree may have its inode."""
    root = os.open(tmp_path, DIRECTORY)
    ownership, budget = Ownership(exact=False), Budget()
    archive = tar(_file("x", uid=7), _file("x"), _file("y", uid=8))
    layer = unpack_layer(StreamedLayer([archive], ownership, budget), root, ownership, budget, Links())
    os.close(root)
    assert layer
    recorded = [number for page in layer.overrides._number._pages.values() for number in page if number]
    assert len(recorded) == 1
    assert layer.overrides.get((tmp_path / "y").stat().st_ino) is not None


def test_a_new_directory_is_moved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with where layers meet, not with how many files they have."""
    upper = tar(_directory("d"), ("d/new", b"1"), *((f"new/{number}/x", b"1") for number in range(100)))
    moved: list[bytes] = []

    def note(directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
        move(directory, name, new_directory, new_name)
        moved.append(name)

    monkeypatch.setattr(merge, "move", note)
    _, merged = apart([tar(*LOWER), upper], exact=False)
    assert merged == [True, True]
    assert moved == [b"new", b"new"]


@pytest.mark.parametrize("name", ["new files", "below symlinks", "other kinds", "whiteouts of what the layer has"])
def test_a_file_system_may_change_the_time_of_a_directory_that_is_moved(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As f2fs does, which Android has."""
    layers = [tar(*LOWER), tar(*MERGED[name], _directory("moved"), _directory("moved/d"), ("moved/d/x", b"1"))]
    expected = in_order(layers, exact=False)
    rename = os.rename

    def touch(source: bytes, target: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if stat.S_ISDIR(os.stat(target, dir_fd=dst_dir_fd, follow_symlinks=False).st_mode):
            os.utime(target, dir_fd=dst_dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", touch)
        assert apart(layers, exact=False) == (expected, [True, True])


NAMES = ["a", "b", "c"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join) | st.sampled_from(["a", "b", "a/b"])
TARGETS = ["a", "b", "../a", "/a/b", "../../b", "/c", "nowhere", "c/c", "."]


def _with_fields(member: tarfile.TarInfo, mode: int, owner: int, mtime: int, note: str) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.mtime = mode, owner, owner, mtime
    if note:
        member.pax_headers = {"SCHILY.xattr.user.note": note}
    return member


def _opaque(path: str) -> tarfile.TarInfo:
    return special(f"{path}/.wh..wh..opq".lstrip("/"), tarfile.REGTYPE)


def _whiteout(path: str) -> tarfile.TarInfo:
    directory, _, name = path.rpartition("/")
    return special(f"{directory}/.wh.{name}".lstrip("/"), tarfile.REGTYPE)


MEMBERS = st.one_of(
    st.builds(special, PATHS, st.sampled_from([tarfile.DIRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])),
    st.builds(special, PATHS, st.just(tarfile.REGTYPE)),
    st.builds(special, PATHS, st.just(tarfile.REGTYPE)),
    st.builds(special, PATHS, st.just(tarfile.SYMTYPE), st.sampled_from(TARGETS)),
    st.builds(hard, PATHS, PATHS),
)
FIELDS = (
    st.sampled_from([0o755, 0o755, 0, 0o555, 0o4755, 0o2775]),
    st.sampled_from([0, 0, 7]),
    st.integers(1, 1000),
    st.sampled_from(["", "", "", "x", "y"]),
)
ENTRIES = st.one_of(
    st.builds(_with_fields, MEMBERS, *FIELDS),
    st.builds(_with_fields, MEMBERS, *FIELDS),
    st.builds(_with_fields, MEMBERS, *FIELDS),
    PATHS.map(_whiteout),
    (PATHS | st.just("")).map(_opaque),
)


class Layer(list[tarfile.TarInfo]):
    """The members of an archive."""

    def __repr__(self) -> str:
        return "; ".join(f"{m.type!r} {m.name} {m.linkname} {m.mode:o} {m.uid} {m.pax_headers}" for m in self)


@st.composite
def layers_of(draw: st.DrawFn) -> Layer:
    """An archive of a layer: whatever entries in whatever order, or with the directories above each before it."""
    members = draw(st.lists(ENTRIES, max_size=7))
    if draw(st.booleans()):
        named: dict[str, tarfile.TarInfo] = {}
        for member in members:
            for parent in reversed(Path(member.name).parents[:-1]):
                named.setdefault(str(parent), special(str(parent), tarfile.DIRTYPE, mode=0o755))
            named[member.name] = member
        members = list(named.values())
    return Layer(members)


@contextmanager
def at_most(names: int) -> Iterator[None]:
    """Let no file have more names, as a file system does (EMLINK); with one, hard links are refused."""
    link = os.link

    def refuse_some(source: bytes, target: bytes, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        if os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_nlink >= names:
            raise OSError(errno.EMLINK if names > 1 else errno.EPERM, "refused")
        link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refuse_some)
        yield


@pytest.mark.parametrize("substitute", ["copy", "symlink"])
def test_what_stands_in_for_some_links_is_known_in_all_layers(substitute: Substitute) -> None:
    """Each of the layers has a file with more names than the file system allows."""
    layers = [
        tar(("a", b"1"), hard("b", "a"), hard("c", "a"), hard("d", "a")),
        tar(("new/a", b"2"), hard("new/b", "new/a"), hard("new/c", "new/a")),
        tar(hard("e", "a"), ("f", b"3")),
    ]
    with at_most(2):
        expected = in_order(layers, exact=False, substitute=substitute)
        found, merged = apart(layers, exact=False, substitute=substitute)
    assert found == expected
    assert merged == [True, True, True]
    counted = expected.substitutes
    assert (counted.copies, counted.symlinks) == ((4, 0) if substitute == "copy" else (0, 4))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("substitute", ["hard link", "auto", "symlink"])
@settings(
    max_examples=int(os.environ.get("MERGE_EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(layers=st.lists(layers_of(), min_size=2, max_size=4))
@pytest.mark.slow
def test_merged_layers_are_what_they_are_in_order(exact: bool, substitute: str, layers: list[Layer]) -> None:
    if exact:
        need_root()
    how: Substitute = "symlink" if substitute == "symlink" else "auto"
    archives = [tar(*layer) for layer in layers]
    with at_most(99 if substitute == "hard link" else 1):
        expected = in_order(archives, exact, how)
        found, merged = apart(archives, exact, how)
        shared, unpacked = apart(archives, exact, how, is_shared=True)
    event("error" if expected.error else "merged" if all(merged[1:]) else "in order")
    event("in two processes" if unpacked[:1] == [True] else "again")
    assert found == replace(expected, spent=found.spent, substitutes=found.substitutes)
    assert found.spent >= expected.spent
    assert shared == found
