"""Layers that are extracted before they are applied: the batches of entries, and the metadata of their files."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.reader import StreamedLayer, extract
from provisioner.layers.tar import Entry
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.archives import END, pax, raw
from tests.support.extracted import apply_extracted
from tests.support.tools import need_root


def test_metadata_that_the_file_system_stores_is_not_recorded(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "root").mkdir()
    ownership, budget = Ownership(exact=True), Budget()
    archive = raw(b"f", content=b"1", uid=b"0000007\0", gid=b"0000010\0", mode=b"0004755\0") + END
    with Tree(tmp_path / "root") as tree:
        apply_extracted(LayerApplier(tree, ownership), [archive], ownership, budget, tmp_path / "extracted")
        state = (tmp_path / "root/f").stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (7, 8, 0o4755)
        assert tree.overrides.get(state.st_ino) is None


def extracted_batches(tmp_path: Path, archive: bytes) -> list[list[Entry]]:
    directory = os.open(tmp_path, DIRECTORY)
    try:
        layer = StreamedLayer([archive + END], Ownership(exact=False), Budget())
        return [[entry for entry, _ in batch] for batch in extract(layer, directory)]
    finally:
        os.close(directory)


def test_entries_come_in_batches_of_a_limited_size(tmp_path: Path) -> None:
    """However long their names and attributes are."""
    assert [len(batch) for batch in extracted_batches(tmp_path, raw(b"d", b"5") * 1000)] == [505, 495]
    long = pax(path=b"n" * 10_000) + raw(b"x", b"5") + pax(SCHILY_xattr_user_note=b"n" * 10_000) + raw(b"x", b"5")
    assert [len(batch) for batch in extracted_batches(tmp_path, long * 10)] == [4] * 5 + [0]


def test_batches_do_not_carry_the_extents_of_sparse_files(tmp_path: Path) -> None:
    holes = b"0,1," + b",".join(b"%d,0" % number for number in range(1, 10_000))
    sparse = pax(GNU_sparse_map=holes, GNU_sparse_size=b"1000000", GNU_sparse_name=b"s") + raw(b"x", content=b"a")
    [[entry]] = extracted_batches(tmp_path, sparse)
    assert (entry.path, entry.size, entry.extents) == (b"s", 1_000_000, None)
