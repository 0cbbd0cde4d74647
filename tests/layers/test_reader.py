"""The metadata of the files of a layer."""

from __future__ import annotations

from pathlib import Path

from provisioner.layers.apply import LayerApplier
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.archives import END, raw
from tests.support.tools import need_root


def test_metadata_that_the_file_system_stores_is_not_recorded(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "root").mkdir()
    ownership = Ownership(exact=True)
    archive = raw(b"f", content=b"1", uid=b"0000007\0", gid=b"0000010\0", mode=b"0004755\0") + END
    with Tree(tmp_path / "root") as tree:
        LayerApplier(tree, ownership).apply([archive])
        state = (tmp_path / "root/f").stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (7, 8, 0o4755)
        assert tree.overrides.get(state.st_ino) is None
