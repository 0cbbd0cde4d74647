"""Records and trees, path by path: the general way and the fast one for a single record say the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from provisioner.comparison.join import join, join_one
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import WalkedFile
from provisioner.ownership.mtree import MtreeEntry

Tree = dict[bytes, "Tree | None"]
"""By name: None for a file, else the content of a directory."""

TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(st.sampled_from([b"a", b"a-b", b"b", b"c"]), st.none(), max_size=3),
    lambda trees: st.dictionaries(st.sampled_from([b"a", b"a-b", b"b", b"c"]), st.none() | trees, max_size=4),
)


def entries(tree: Tree, name: bytes = b".") -> Iterator[MtreeEntry | None]:
    yield MtreeEntry(name, Kind.DIRECTORY, 0o755, 0, 0)
    for below, content in sorted(tree.items()):
        if content is None:
            yield MtreeEntry(below, Kind.FILE, 0o644, 0, 0)
        else:
            yield from entries(content, below)
    yield None


def files(tree: Tree, name: bytes = b".") -> Iterator[WalkedFile | None]:
    yield WalkedFile(name, -1, os.stat_result((0o40755, *[0] * 9)))
    for below, content in sorted(tree.items()):
        if content is None:
            yield WalkedFile(below, -1, os.stat_result((0o100644, *[0] * 9)))
        else:
            yield from files(content, below)
    yield None


def paths(tree: Tree, above: bytes = b"") -> Iterator[bytes]:
    yield above
    for name, content in tree.items():
        path = above + b"/" + name if above else name
        yield from [path] if content is None else paths(content, path)


@given(TREES, TREES)
def test_both_say_the_same(record: Tree, tree: Tree) -> None:
    found = list(join_one(entries(record), files(tree)))
    general = [(path, entry, file) for path, (entry,), file in join([entries(record)], files(tree))]
    assert sorted(found, key=lambda pair: pair[0]) == sorted(general, key=lambda pair: pair[0])
    assert [path for path, entry, _ in found if entry] == [path for path, entry, _ in general if entry]
    assert [path for path, _, file in found if file] == [path for path, _, file in general if file]
    assert {path for path, *_ in found} == {*paths(record), *paths(tree)}
