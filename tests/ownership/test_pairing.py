"""A tree beside its record: whatever was added, removed or has another type now."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from provisioner.filesystem.kind import Kind
from provisioner.filesystem.walk import walk
from provisioner.ownership.mtree import MtreeEntry
from provisioner.ownership.pairing import pair_files

Tree = dict[str, "Tree | None"]
"""Names, each with the content of a directory, or None for a file."""

NAMES = st.sampled_from(["a", "b", "c", "-", "~"])
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(NAMES, st.none(), max_size=4),
    lambda below: st.dictionaries(NAMES, st.one_of(st.none(), below), max_size=4),
    max_leaves=20,
)


def make(tree: Tree, directory: Path) -> None:
    for name, below in tree.items():
        if below is None:
            (directory / name).touch()
        else:
            (directory / name).mkdir()
            make(below, directory / name)


def entries(tree: Tree, name: str = ".") -> list[MtreeEntry | None]:
    found: list[MtreeEntry | None] = [MtreeEntry(name.encode(), Kind.DIRECTORY, 0o755, 0, 0)]
    for child in sorted(tree):
        below = tree[child]
        found += [MtreeEntry(child.encode(), Kind.FILE, 0o644, 0, 0)] if below is None else entries(below, child)
    return [*found, None]


def paths(tree: Tree, above: str = "") -> dict[str, bool]:
    """All paths, each with whether it is a directory."""
    found = {}
    for name, below in tree.items():
        found[above + name] = below is not None
        found |= paths(below, f"{above}{name}/") if below is not None else {}
    return found


@given(TREES, TREES)
def test_each_file_comes_with_the_entry_at_its_path(recorded: Tree, present: Tree) -> None:
    place = Path(tempfile.mkdtemp(prefix="provision-test-"))
    try:
        make(present, place)
        found: dict[str, bool | None] = {}
        names: list[str] = []
        for pair in pair_files(iter(entries(recorded)), walk(place)):
            if pair is None:
                names.pop()
                continue
            file, entry = pair
            path = "/".join([*names[1:], os.fsdecode(file.name)])
            found[path] = None if entry is None else entry.is_directory
            if file.is_directory:
                names.append(os.fsdecode(file.name))
        assert names == []
        assert found.pop(".") is True
        known = paths(recorded)
        assert found == {path: known.get(path) for path in paths(present)}
    finally:
        shutil.rmtree(place)
