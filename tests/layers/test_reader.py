"""The metadata of the files of a layer."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from provisioner.layers.apply import LayerApplier
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.archives import END, Member, raw, special, tar
from tests.support.tools import need, need_root, unavailable


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


MEMBERS: list[Member] = [
    special("shared", tarfile.DIRTYPE, mode=0o2775, gid=50),
    special("shared/root's", tarfile.REGTYPE, mode=0o644),
    special("shared/below", tarfile.DIRTYPE, mode=0o755),
    special("shared/below/file", tarfile.REGTYPE, mode=0o664),
    special("plain", tarfile.REGTYPE, mode=0o644),
    special("read-only", tarfile.REGTYPE, mode=0o444),
    special("for-all", tarfile.REGTYPE, mode=0o777),
    special("setuid", tarfile.REGTYPE, mode=0o4755),
    special("setuid-of-another", tarfile.REGTYPE, mode=0o6711, uid=7, gid=8),
    special("closed", tarfile.REGTYPE, mode=0),
]


def _applied(root: Path, exact: bool) -> dict[str, tuple[int, int, int]]:
    with Tree(root) as tree:
        LayerApplier(tree, Ownership(exact)).apply([tar(*MEMBERS)])
    return {
        str(path.relative_to(root)): (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid)
        for path in root.rglob("*")
        if (state := path.lstat())
    }


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("condition", ["umask 077", "umask 0", "setgid", "default ACL"])
def test_owners_and_modes_are_the_images_whatever_new_files_get(tmp_path: Path, condition: str, exact: bool) -> None:
    if exact:
        need_root()
    tmp_path.chmod(0o755)
    (expected_in := tmp_path / "expected").mkdir()
    expected = _applied(expected_in, exact)
    assert expected["read-only"][0] == (0o444 if exact else 0o644)
    assert expected["setuid"][0] == 0o4755
    if exact:
        assert expected["shared/root's"] == (0o644, 0, 0)
        assert expected["setuid-of-another"] == (0o6711, 7, 8)
    (found_in := tmp_path / "found").mkdir()
    if condition == "setgid":
        need_root()
        os.chown(found_in, -1, 50)
        found_in.chmod(0o2755)
    elif condition == "default ACL":
        need("setfacl")
        done = subprocess.run(["setfacl", "-d", "-m", "u::rwx,g::---,o::---,u:7:rwx", found_in], check=False)
        if done.returncode:
            unavailable("this file system has no access control lists")
    before = os.umask({"umask 077": 0o77, "umask 0": 0}.get(condition, 0o22))
    try:
        found = _applied(found_in, exact)
    finally:
        os.umask(before)
    if condition == "setgid" and not exact:  # groups are the user's affair
        assert {path: fields[0] & 0o5777 for path, fields in found.items()} == {
            path: fields[0] & 0o5777 for path, fields in expected.items()
        }
    else:
        assert found == expected
