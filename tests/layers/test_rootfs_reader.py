"""Rootfs archives: what is taken of them, and what they can't do."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MachineError, MalformedImage, ProvisionError
from provisioner.image.image import RootfsArchive
from provisioner.layers import rootfs_reader
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.rootfs_reader import RootfsReader
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import Tree
from tests.support.archives import Member, hard, special, tar
from tests.support.trees import tree_of

HOST = "/data/data/com.termux/files/usr/var/lib/proot-distro/containers/x/rootfs"


def apply(root: Path, *members: Member, inside: bytes = b"") -> Links:
    links, budget = Links(), Budget()
    with Tree(root) as tree:
        applier = LayerApplier(tree, Ownership(False), budget=budget, links=links)
        applier.apply_reader(RootfsReader(RootfsArchive(inside), [tar(*members)], Ownership(False), budget))
        applier.finish()
    return links


def names(root: Path) -> list[str]:
    return [name for name in tree_of(root) if name != "."]


def test_there_are_no_whiteouts(tmp_path: Path) -> None:
    apply(tmp_path, ("etc/a", b"1"), ("etc/.wh.a", b"2"), ("etc/.wh..wh..opq", b"3"), (".wh..wh.plnk/x", b"4"))
    assert names(tmp_path) == [
        *(".wh..wh.plnk", ".wh..wh.plnk/x", "etc", "etc/.wh..wh..opq", "etc/.wh.a", "etc/a"),
    ]


def test_what_is_beside_the_root_is_left_out(tmp_path: Path) -> None:
    inside = special("./rootfs", b"5", mode=0o750)
    members: list[Member] = [("metadata.yaml", b"x"), ("templates/hosts", b"x"), inside, ("rootfs/etc/a", b"1")]
    members += [("./rootfs/b", b"2")]
    apply(tmp_path, *members, hard("rootfs/c", "./rootfs/b"), ("rootfs/d", "/etc/a"), inside=b"rootfs")
    assert names(tmp_path) == ["b", "c", "d", "etc", "etc/a"]
    assert os.readlink(tmp_path / "d") == "/etc/a"
    assert (tmp_path / "b").samefile(tmp_path / "c")
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("rootfs/../../x", b""), "climbs out"),
        (("rootfs/../etc/x", b""), "climbs out"),
        (("rootfs", b"a file"), "would replace the root directory"),
        (hard("rootfs/x", "outside"), "a hard link to 'outside', outside of the root"),
        (("other/usr/x", b""), "more than one root directory: 'rootfs' and 'other'"),
        (("etc/passwd", b""), "more than one root directory: 'rootfs' and its own root"),
    ],
)
def test_what_would_leave_the_root_is_refused(tmp_path: Path, member: Member, why: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(MalformedImage, match=why):
        apply(tmp_path / "in", ("outside", b""), ("rootfs/etc/a", b"1"), member, inside=b"rootfs")
    assert os.listdir(tmp_path) == ["in"]


def proot_links(folder: str, prefix: str = ".l2s.") -> list[tuple[str, bytes | str | None]]:
    return [
        ("usr/bin/perl", f"{HOST}/{folder}{prefix}perl0001"),
        (f"{folder}{prefix}perl0001", f"{HOST}/{folder}{prefix}perl0001.0003"),
        (f"{folder}{prefix}perl0001.0003", b"content"),
        ("usr/bin/perl5", f"{HOST}/{folder}{prefix}perl0001"),
        ("usr/lib/perl", f"{HOST}/{folder}{prefix}perl0001"),
    ]


@pytest.mark.parametrize("inside", ["", "x/rootfs/"])
@pytest.mark.parametrize(("folder", "prefix"), [("usr/bin/", ".l2s."), ("usr/bin/", ".proot.l2s."), (".l2s/", ".l2s.")])
def test_links_of_proot_become_hard_links(tmp_path: Path, folder: str, prefix: str, inside: str) -> None:
    moved = [(f"{inside}{name}", content) for name, content in proot_links(folder, prefix)]
    links = apply(tmp_path, (f"{inside}etc", None), *moved, inside=inside.rstrip("/").encode())
    assert names(tmp_path) == ["etc", "usr", "usr/bin", "usr/bin/perl", "usr/bin/perl5", "usr/lib", "usr/lib/perl"]
    assert (tmp_path / "usr/bin/perl").read_bytes() == b"content"
    assert (tmp_path / "usr/bin/perl").stat().st_nlink == 3
    assert (links.substitutes.resolved_links, links.substitutes.lost_links) == (3, 0)


def test_links_of_proot_become_copies_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "link")
    links = apply(tmp_path, *proot_links(".l2s/"))
    assert (tmp_path / "usr/lib/perl").read_bytes() == (tmp_path / "usr/bin/perl").read_bytes() == b"content"
    assert links.substitutes.copies + links.substitutes.reflinks == 2


@pytest.mark.parametrize(
    "members",
    [
        [("a", f"{HOST}/.l2s.x0001")],
        [("a", "/.l2s.a"), (".l2s.a", "/.l2s.b"), (".l2s.b", "/.l2s.a")],
        [("a", "/.l2s.x0001"), (".l2s.x0001", "/etc/passwd"), ("etc/passwd", b"root")],
        [("a", "/.l2s.x0001"), (".l2s.x0001", "/.l2s.x0001.0002"), (".l2s.x0001.0002", None)],
        [("a", "/../../.l2s.x0001.0002")],
    ],
)
def test_links_of_proot_without_content_stay(tmp_path: Path, members: list[tuple[str, bytes | str | None]]) -> None:
    (tmp_path / "in").mkdir()
    links = apply(tmp_path / "in", *members)
    assert links.substitutes.lost_links == 1
    assert links.substitutes.resolved_links == 0
    assert sorted(names(tmp_path / "in")) == sorted({part for name, _ in members for part in (name, *above(name))})


def above(name: str) -> list[str]:
    return [name.rpartition("/")[0]] if "/" in name else []


def test_a_link_of_proot_that_is_replaced_later_is_left_alone(tmp_path: Path) -> None:
    links = apply(tmp_path, *proot_links(".l2s/"), ("usr/bin/perl", b"mine"))
    assert (tmp_path / "usr/bin/perl").read_bytes() == b"mine"
    assert (tmp_path / "usr/bin/perl5").samefile(tmp_path / "usr/lib/perl")
    assert links.substitutes.resolved_links == 2


def test_links_of_proot_take_limited_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs_reader, "_LINKS_SIZE", 1000)
    with pytest.raises(MachineError, match="too many links of proot"):
        apply(tmp_path, *((f"{number}", "/.l2s.x0001") for number in range(10)))


NAMES = ("a", "b", "d/a", "d", ".l2s", ".l2s.a0001", ".l2s.a0001.0002", "d/.l2s.b0001", "d/.l2s.b0001.0003")
TARGETS = (*(f"{HOST}/{name}" for name in NAMES), *NAMES, "/", "/d/.l2s.b0001", "../.l2s.a0001", "/.l2s." + "x/" * 200)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(TARGETS) | st.binary(max_size=3) | st.none())))
def test_resolving_links_of_proot_loses_no_content(members: list[tuple[str, str | bytes | None]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "in")
        root.mkdir()
        Path(place, ".l2s.a0001.0002").write_bytes(b"outside")
        with Tree(root) as tree:
            budget = Budget()
            reader = RootfsReader(RootfsArchive(), [tar(*members)], Ownership(False), budget)
            contents: set[str] = set()
            finish = reader.finish

            def compare(tree: Tree, links: Links) -> None:
                contents.update(entry.sha256 for entry in tree_of(root).values())
                finish(tree, links)
                assert contents == {entry.sha256 for entry in tree_of(root).values()}

            reader.finish = compare  # type: ignore[method-assign]
            with suppress(ProvisionError):
                LayerApplier(tree, Ownership(False), budget=budget).apply_reader(reader)
        assert Path(place, ".l2s.a0001.0002").read_bytes() == b"outside"
        assert sorted(os.listdir(place)) == [".l2s.a0001.0002", "in"]
