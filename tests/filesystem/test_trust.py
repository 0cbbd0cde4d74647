"""Whose files are relied on: the rule by stat results, then with real files of other users."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.filesystem.trust import (
    Stranger,
    TrustedDirectories,
    TrustedUsers,
    check_ours,
    created_owner,
    find_stranger,
    is_plainly_ours,
    read_acl,
)
from tests.support.access_lists import GROUP, GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ, acl
from tests.support.disks import bindfs
from tests.support.tools import need, run

ME, STRANGER = 1000, 1234
US = TrustedUsers(frozenset({0, ME}), frozenset({ME}))


def state(uid: int = ME, mode: int = 0o755, gid: int = ME) -> os.stat_result:
    return os.stat_result((stat.S_IFDIR | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("found", "stranger"),
    [
        (state(), None),
        (state(0), None),
        (state(STRANGER), Stranger("owner", STRANGER)),
        (state(STRANGER, 0o700), Stranger("owner", STRANGER)),
        (state(mode=0o757), Stranger("everybody")),
        (state(mode=0o1777), Stranger("everybody")),
        (state(mode=0o775), None),
        (state(mode=0o775, gid=0), None),
        (state(mode=0o775, gid=100), Stranger("group", 100)),
        (state(mode=0o755, gid=100), None),
        (state(mode=0o2770, gid=100), Stranger("group", 100)),
    ],
)
def test_who_may_own_and_write(found: os.stat_result, stranger: Stranger | None) -> None:
    assert find_stranger(found, US) == stranger


def test_sticky_directories_may_be_on_the_way() -> None:
    assert find_stranger(state(0, 0o1777), US, is_sticky_enough=True) is None
    assert find_stranger(state(0, 0o1775, 100), US, is_sticky_enough=True) is None
    assert find_stranger(state(0, 0o777), US, is_sticky_enough=True) == Stranger("everybody")
    assert find_stranger(state(STRANGER, 0o1777), US, is_sticky_enough=True) == Stranger("owner", STRANGER)


@pytest.mark.parametrize(
    ("entries", "stranger"),
    [
        ([(GROUP_OBJ, 7, NO_ID)], None),
        ([(USER, 7, ME), (GROUP, 7, ME), (GROUP_OBJ, 5, NO_ID), (MASK, 7, NO_ID)], None),
        ([(USER, 7, STRANGER), (MASK, 7, NO_ID)], Stranger("user", STRANGER)),
        ([(USER, 7, STRANGER), (MASK, 5, NO_ID)], None),
        ([(USER, 5, STRANGER), (MASK, 7, NO_ID)], None),
        ([(GROUP, 2, 100), (MASK, 7, NO_ID)], Stranger("group", 100)),
        ([(USER, 2, 0), (GROUP, 2, 0), (MASK, 2, NO_ID)], None),
    ],
)
def test_access_control_lists(entries: list[tuple[int, int, int]], stranger: Stranger | None) -> None:
    both = [(USER_OBJ, 7, NO_ID), *entries, (OTHER, 5, NO_ID)]
    assert find_stranger(state(mode=0o775), US, acl(*both)) == stranger
    # Without the group's bit nobody in the list may write.
    assert find_stranger(state(mode=0o755), US, acl(*both)) is None


def test_the_owning_group_counts_with_a_list_too() -> None:
    entries = acl((GROUP_OBJ, 7, NO_ID), (MASK, 7, NO_ID))
    assert find_stranger(state(mode=0o775, gid=100), US, entries) == Stranger("group", 100)


@pytest.mark.parametrize("broken", [b"?", b"\2\0\0\0abc", struct.pack("<I", 3), b"\0" * 12])
def test_a_list_that_cannot_be_read_lets_anybody_write(broken: bytes) -> None:
    assert find_stranger(state(mode=0o775), US, broken) == Stranger("user", -1)


def test_ids_of_android_itself_are_trusted_only_there() -> None:
    android = TrustedUsers(US.users, US.groups, has_android_ids=True)
    for trusted in (state(1000, 0o771, 1000), state(2000, 0o771, 2000), state(9999, 0o775, 9999)):
        assert find_stranger(trusted, android) is None
    assert find_stranger(state(10000), android) == Stranger("owner", 10000)
    assert find_stranger(state(ME, 0o775, 10001), android) == Stranger("group", 10001)
    assert find_stranger(state(2000), US) == Stranger("owner", 2000)


def test_in_a_job_of_its_own_machine_everybody_is_trusted() -> None:
    job = TrustedUsers(frozenset({0}), is_everybody=True)
    assert find_stranger(state(STRANGER, 0o777, 100), job) is None


def test_what_needs_no_further_look() -> None:
    me = os.geteuid()
    assert is_plainly_ours(state(me, 0o755))
    assert is_plainly_ours(state(0, 0o700))
    assert not is_plainly_ours(state(me, 0o775))
    assert not is_plainly_ours(state(me, 0o777))
    assert not is_plainly_ours(state(me + 1, 0o700))


# Directories for which the rule is lifted


@pytest.mark.parametrize(
    ("paths", "covered"),
    [
        ((), ""),
        (("*",), "here here/below here-not"),
        (("here",), "here here/below"),
        (("here/",), "here here/below"),
        (("link",), "here here/below"),
        (("here/below",), "here/below"),
    ],
)
def test_trusted_directories_hold_what_is_below(tmp_path: Path, paths: tuple[str, ...], covered: str) -> None:
    (tmp_path / "here/below").mkdir(parents=True)
    (tmp_path / "here-not").mkdir()
    (tmp_path / "link").symlink_to("here")
    trust = TrustedDirectories(tuple(path if path == "*" else f"{tmp_path}/{path}" for path in paths))
    found = [name for name in ("here", "here/below", "here-not") if trust.covers(tmp_path / name)]
    assert found == covered.split()


def test_relative_paths_trust_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not TrustedDirectories((".", "")).covers(tmp_path)


# Real files


def test_real_lists_are_read(tmp_path: Path) -> None:
    need("setfacl")
    directory = tmp_path / "dir"
    directory.mkdir(mode=0o750)
    for entry, stranger in ((f"u:{STRANGER}:rx", None), (f"u:{STRANGER}:rwx", Stranger("user", STRANGER))):
        run("setfacl", "-m", entry, directory)
        with directory_descriptor(directory) as opened:
            found = os.fstat(opened)
            assert find_stranger(found, TrustedUsers.of_this_process(), read_acl(opened)) == stranger
    directory.chmod(0o750)  # this takes it from all in the list
    with directory_descriptor(directory) as opened:
        check_ours(opened, "dir")


def test_a_list_is_read_of_what_is_only_passed(tmp_path: Path) -> None:
    need("setfacl")
    run("setfacl", "-m", f"u:{STRANGER}:rwx", tmp_path)
    opened = os.open(tmp_path, os.O_PATH)
    try:
        assert read_acl(opened)
    finally:
        os.close(opened)


def test_the_owner_of_new_files_is_asked_by_one_that_is_gone_again(tmp_path: Path) -> None:
    with directory_descriptor(tmp_path) as opened:
        assert created_owner(opened) == os.geteuid()
    assert os.listdir(tmp_path) == []


def test_file_systems_without_owners_are_asked(tmp_path: Path) -> None:
    """As NFS with root_squash, whose root is somebody else."""
    with bindfs(tmp_path, f"--force-user={STRANGER}") as squashed, directory_descriptor(squashed) as opened:
        assert os.fstat(opened).st_uid == STRANGER
        assert created_owner(opened) == STRANGER
