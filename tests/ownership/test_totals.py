"""The totals of an ownership record."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.container_files import OWNERSHIP_RECORD
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.policy import WITHOUT_ROOT
from provisioner.ownership.record import write_owners
from provisioner.ownership.totals import TreeTotals, recorded_totals


def totals(folder: Path) -> TreeTotals | None:
    where = os.open(folder, os.O_RDONLY)
    try:
        return recorded_totals(where)
    finally:
        os.close(where)


def test_names_of_one_file_count_once(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    (root / "sub").mkdir(parents=True)
    folder.mkdir()
    (root / "a").write_bytes(bytes(1000))
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "sub/c")
    (root / "d").write_bytes(bytes(7))
    (root / "link").symlink_to("a")
    write_owners(folder, root, MetadataOverrides(), WITHOUT_ROOT)
    assert totals(folder) == TreeTotals(7, 1007, directories=2)


def test_without_a_record_that_can_be_read(tmp_path: Path) -> None:
    assert totals(tmp_path) is None
    (tmp_path / OWNERSHIP_RECORD).write_text("#mtree\nnonsense\n")
    assert totals(tmp_path) is None
    (tmp_path / OWNERSHIP_RECORD).unlink()
    os.mkfifo(tmp_path / OWNERSHIP_RECORD)
    assert totals(tmp_path) is None
