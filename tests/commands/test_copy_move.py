"""`provision copy` and `provision move`: all that is in a container comes along, or nothing happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli import main
from provisioner.container import copying
from provisioner.filesystem.copying import CopyReport
from provisioner.filesystem.walk import walk
from provisioner.terminal.progress import Console
from tests.support.containers import starter
from tests.support.disks import disk, tmpfs
from tests.support.kills import kill_at_random, run_forked
from tests.support.leftovers import staging_below
from tests.support.provisioned import add_unusual_files, provisioned
from tests.support.subordinate import FIRST, with_subordinate_ids
from tests.support.terminal import on_terminal, plain
from tests.support.tools import (
    as_user,
    clean_environment,
    messages_of,
    need,
    need_root,
    own,
    own_all,
    provision,
    provision_command,
    run,
    without_links,
)
from tests.support.trees import Entry, make_deep, tree_of


def content(directory: Path) -> dict[str, Entry]:
    """What a copy has in common with the original: all but its id, and what belongs to inodes and processes."""
    return {
        path: entry
        for path, entry in tree_of(directory).items()
        if not path.startswith((".provision/run", ".provision/fakeroot.state", ".provision/links"))
        and path not in (".provision", ".provision/record.json")
    }


@pytest.fixture(params=["root", "user"])
def by(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "root":
        need_root()
        return {}
    return as_user()


def test_a_copy_has_all_that_is_in_the_original(place: Path, by: dict[str, Any]) -> None:
    source = provisioned(place / "source", **by)
    if not by:
        add_unusual_files(source)
    else:
        (source / "rootfs/usr/closed-directory").mkdir()
        (source / "rootfs/usr/closed-directory/file").write_text("x")
        for name in ("usr/closed-directory/file", "usr/closed-directory"):
            own(source / "rootfs" / name)
            (source / "rootfs" / name).chmod(0)
    (source / ".provision/run").mkdir()
    (source / ".provision/run/1").write_text("of a process")
    own(source / ".provision/run")
    own(source / ".provision/run/1")
    before = content(source)
    message = messages_of("copy", source, place / "new", **by)
    assert content(place / "new") == before
    assert content(source) == before
    assert not (place / "new/.provision/run").exists()
    assert message.endswith(f"{place}/new is ready\n")
    if not by:
        assert os.getxattr(place / "new/rootfs/usr/sparse", "user.note") == b"dear"
        assert os.getxattr(place / "new/rootfs/usr/one", "trusted.note") == b"x"
        assert (place / "new/rootfs/usr/sparse").stat().st_blocks <= 16


def test_a_copy_has_an_id_of_its_own_and_a_move_keeps_it(place: Path) -> None:
    source = provisioned(place / "source")
    record = json.loads((source / ".provision/record.json").read_text())
    messages_of("copy", source, place / "new")
    copied = json.loads((place / "new/.provision/record.json").read_text())
    assert copied == {**record, "id": copied["id"]}
    assert copied["id"] not in ("", record["id"])
    with elsewhere(place, "other") as parent:
        messages_of("move", source, parent / "moved")
        assert json.loads((parent / "moved/.provision/record.json").read_text()) == record


def test_fakeroot_shows_the_owners_of_a_copy(place: Path) -> None:
    need("fakeroot")
    source = provisioned(place / "source", **as_user())
    messages_of("copy", source, place / "new", **as_user())
    show = ["fakeroot", "-i", ".provision/fakeroot.state", "stat", "-c", "%u:%g:%a", "rootfs/usr/owned"]
    done = subprocess.run(show, capture_output=True, text=True, check=True, **{**as_user(), "cwd": place / "new"})
    assert done.stdout == "33:34:4755\n"


@pytest.mark.parametrize("file_system", ["btrfs", "xfs"])
def test_a_copy_shares_blocks_where_the_file_system_can(tmp_path: Path, file_system: str) -> None:
    with disk(tmp_path, file_system) as mounted:
        source = provisioned(mounted.path / "source")
        (source / "rootfs/large").write_bytes(os.urandom(100 << 20))
        os.sync()
        before = shutil.disk_usage(mounted.path).used
        message = messages_of("copy", source, mounted.path / "new")
        assert "by reflink, without taking space" in message
        assert shutil.disk_usage(mounted.path).used - before < 20 << 20
        assert content(mounted.path / "new") == content(source)


def test_a_copy_runs(place: Path) -> None:
    options = starter("proot")
    source = provisioned(place / "source", **as_user())
    (source / "rootfs/etc/mark").write_text("here")
    own(source / "rootfs/etc/mark")
    messages_of("copy", source, place / "new", **as_user())
    shutil.rmtree(source)
    command = [str(place / "new/start.sh"), "--runtime", "proot", "/bin/cat", "/etc/mark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert (done.returncode, done.stdout) == (0, "here")


def test_a_copy_of_what_runs_is_made_with_a_word(place: Path) -> None:
    options = starter("proot")
    source = provisioned(place / "source", **as_user())
    options |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    command = [str(source / "start.sh"), "--runtime", "proot", "/bin/sh", "-c", "echo begun; exec sleep 60"]
    with subprocess.Popen(command, **options) as process:
        assert process.stdout
        process.stdout.readline()
        assert "in the copy in part" in messages_of("copy", source, place / "new", **as_user())
        assert "stop them first" in messages_of("move", source, place / "moved", status=8, **as_user())
        assert (source / "start.sh").exists()
        messages_of("remove", "--yes", source, **as_user())
    assert (place / "new/start.sh").exists()


def test_what_is_mounted_is_left_out_of_a_copy_and_hinders_a_move(place: Path) -> None:
    need_root()
    source = provisioned(place / "source")
    (source / "rootfs/mnt").mkdir()
    with tmpfs(source / "rootfs/mnt"):
        (source / "rootfs/mnt/file").touch()
        assert "something is mounted at rootfs/mnt, and was left out" in messages_of("copy", source, place / "new")
        assert os.listdir(place / "new/rootfs/mnt") == []
        assert f"mounted at {source}/rootfs/mnt" in messages_of("move", source, place / "moved", status=8)


def test_hard_links_that_are_refused_become_files(place: Path) -> None:
    """As on Android."""
    source = provisioned(place / "source", **as_user())
    (place / "cache").mkdir()
    own(place / "cache")
    command, options = provision_command("copy", source, place / "new", cache=place / "cache", **as_user())
    done = subprocess.run(without_links(*command), check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "1 hard link is a copy: hard links are refused here" in done.stderr
    assert (place / "new/rootfs/usr/two").read_text() == "shared content"


def test_links_of_proot_lead_to_the_copy_and_follow_a_move(place: Path) -> None:
    source = provisioned(place / "source", **as_user())
    rootfs = source / "rootfs"
    (rootfs / ".l2s").mkdir()
    (rootfs / ".l2s/.l2s.file0001.0002").write_text("content")
    (rootfs / ".l2s/.l2s.file0001").symlink_to(rootfs / ".l2s/.l2s.file0001.0002")
    (rootfs / "usr/file").symlink_to(rootfs / ".l2s/.l2s.file0001")
    (rootfs / "usr/older").symlink_to("/older/place/rootfs/.l2s/.l2s.file0001")
    (rootfs / "usr/absolute2").symlink_to(rootfs / "etc")
    (source / ".provision/links").write_text(f"{rootfs}\n")
    own_all(source)
    messages_of("copy", source, place / "new", **as_user())
    messages_of("move", source, place / "moved", **as_user())
    for target in (place / "new", place / "moved"):
        assert os.readlink(target / "rootfs/usr/file") == f"{target}/rootfs/.l2s/.l2s.file0001"
        assert (target / "rootfs/usr/file").read_text() == "content"
        assert (target / "rootfs/usr/older").read_text() == "content"
        assert os.readlink(target / "rootfs/usr/absolute2") == f"{place}/source/rootfs/etc"
        assert (target / ".provision/links").read_text() == f"{target}/rootfs\n"


def test_depth_has_no_limit(place: Path) -> None:
    source = provisioned(place / "source")
    make_deep(source / "rootfs")
    messages_of("copy", source, place / "new")
    names = [[file.name for file in filter(None, walk(path / "rootfs"))] for path in (source, place / "new")]
    assert names[0] == names[1]


def test_a_source_that_is_removed_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files would only be missing in the copy."""
    source = provisioned(tmp_path / "source")
    copy_directory = copying.copy_directory

    def removed_first(opened: int, former: Path, target: int, place: Path, console: Console) -> CopyReport:
        report = copy_directory(opened, former, target, place, console)
        messages_of("remove", source)
        return report

    monkeypatch.setattr(copying, "copy_directory", removed_first)
    assert main(["copy", str(source), str(tmp_path / "new")]) == 7
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_long_jobs_say_on_a_terminal_what_is_being_done(place: Path, stream: str) -> None:
    """And leave nothing of that on it."""
    source, backup = provisioned(place / "source"), place / "x.tar"
    for words, what in (
        (("copy", source, place / "new"), "copying"),
        (("backup", source, backup), f"writing {backup}"),
        (("restore", backup, place / "restored"), "restoring"),
        (("remove", "--yes", source), f"removing {source}"),
    ):
        status, shown = on_terminal(*words, columns=200, cache=place / "cache", stream=stream, TERM="xterm")
        assert status == 0, shown
        assert (what in shown) == (stream == "stderr")
        lines = [line.rpartition("\r")[2].strip() for line in plain(shown).split("\n")]
        assert not [line for line in lines if line.startswith(what)]


# Moves


@contextmanager
def elsewhere(place: Path, where: str) -> Iterator[Path]:
    """A directory on the same file system, or on another one."""
    if where == "same":
        (place / "elsewhere").mkdir()
        yield own(place / "elsewhere")
        return
    point = place / "elsewhere"
    with tmpfs(point, "mode=755,size=500m"):
        yield point


@pytest.mark.parametrize("where", ["same", "other"])
def test_a_move_takes_all_and_leaves_nothing(place: Path, where: str) -> None:
    need_root()
    env = clean_environment(XDG_STATE_HOME=str(place / "state"))
    source = add_unusual_files(provisioned(place / "source", env=env))
    before = content(source)
    with elsewhere(place, where) as parent:
        messages_of("move", source, parent / "above/new", env=env)
        assert not source.exists()
        assert content(parent / "above/new") == before
        assert staging_below(place) == []
        (row,) = json.loads(provision("list", "--json", env=env).stdout)["directories"]
        assert row["directory"] == f"{parent}/above/new"
        messages_of("move", parent / "above/new", source, env=env)
        assert content(source) == before


def test_a_move_that_would_lose_something_is_refused(place: Path) -> None:
    need_root()
    source = provisioned(place / "source")
    before = content(source)
    os.setxattr(source / "rootfs/usr/one", "user.note", b"x" * 60000)
    with disk(place, "ext4") as mounted:  # whose attributes have to fit into a block
        message = messages_of("move", source, mounted.path / "new", status=7)
        assert "extended attribute" in message
        assert "provision copy" in message
        assert not (mounted.path / "new").exists()
        assert staging_below(mounted.path) == []
    assert content(source) == before


@pytest.mark.slow
@pytest.mark.parametrize(("command", "where"), [("copy", "same"), ("move", "same"), ("move", "other")])
def test_killed_at_a_hundred_moments_all_of_it_is_somewhere(tmp_path: Path, command: str, where: str) -> None:
    original = provisioned(tmp_path / "original")
    (original / "rootfs/usr/out").symlink_to(tmp_path)
    (tmp_path / "place").mkdir()
    source = tmp_path / "place/source"
    (tmp_path / "canary").write_text("alive")
    with elsewhere(tmp_path / "place", where) as parent:
        target = parent / "above/target"

        def prepare() -> list[str]:
            for path in (source, target.parent):
                shutil.rmtree(path, ignore_errors=True)
            for path in [*staging_below(tmp_path / "place")]:
                shutil.rmtree(path)
            run("cp", "-a", original, source)
            return [command, "--no-sync", str(source), str(target)]

        prepare()
        whole = content(source)
        kills = 0
        for was_killed in kill_at_random(100, prepare, tmp_path):
            kills += was_killed
            found = [path for path in (source, target) if path.exists()]
            assert source in found or command == "move"
            assert found
            for path in found:
                assert same(content(path), whole)
            if kills % 4 == 0 and source in found and target not in found:  # the next run goes on
                assert run_forked([command, "--no-sync", str(source), str(target)]) == 0
                assert same(content(target), whole)
                assert staging_below(parent) == []
        assert kills > 80
        for left in staging_below(tmp_path):  # by the last kill
            shutil.rmtree(left)
    assert (tmp_path / "canary").read_text() == "alive"


def same(one: dict[str, Entry], other: dict[str, Entry]) -> bool:
    """Whether two trees are the same, but for the time of the top, where links.new may have been."""
    return {**one, ".": replace(one["."], mtime=0)} == {**other, ".": replace(other["."], mtime=0)}


# Bad input


@pytest.mark.parametrize("command", ["copy", "move"])
@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("none", "new"), 3, "there is no container none"),
        (("plain", "new"), 8, "was not made by provision"),
        (("source", "plain"), 8, "exists"),
        (("source", "file"), 8, "exists"),
        (("source", "source"), 2, "source is the container itself"),
        (("source", "source/rootfs/new"), 2, "source/rootfs/new is inside of"),
        (("source", "."), 2, "source is inside of ."),
        (("source", ""), 2, "NEW is empty"),
        (("source", "file/new"), 8, "file/new: a part of this path is a file"),
        (("source", "file/new/more"), 8, "file/new/more: a part of this path is a file"),
        (("source", "other/rootfs/new"), 8, "would be inside of the container"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, command: str, words: tuple[str, str], status: int, text: str
) -> None:
    source = tmp_path / "source"
    (source / ".provision").mkdir(parents=True)
    (source / "rootfs").mkdir()
    (source / ".provision/record.json").touch()
    (tmp_path / "other/.provision").mkdir(parents=True)
    (tmp_path / "other/.provision/record.json").touch()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").touch()
    (tmp_path / "file").touch()
    before = tree_of(tmp_path)
    assert text in messages_of(command, *words, status=status, cwd=tmp_path)
    assert tree_of(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("command", ["copy", "move"])
def test_the_current_directory_is_not_replaced(tmp_path: Path, command: str) -> None:
    source = provisioned(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    assert "is the current directory" in messages_of(command, source, ".", status=8, cwd=tmp_path / "empty")
    messages_of(command, source, tmp_path / "empty")
    assert (tmp_path / "empty/start.sh").exists()


def test_a_symlink_is_copied_from_but_not_moved(tmp_path: Path) -> None:
    source = provisioned(tmp_path / "source")
    (tmp_path / "link").symlink_to("source")
    messages_of("copy", tmp_path / "link", tmp_path / "new")
    assert content(tmp_path / "new") == content(source)
    assert "is a symlink to source" in messages_of("move", tmp_path / "link", tmp_path / "moved", status=8)


@pytest.mark.parametrize("command", ["copy", "move"])
def test_a_full_disk_leaves_all_as_it_was(place: Path, command: str) -> None:
    need_root()
    source = provisioned(place / "source")
    (source / "rootfs/large").write_bytes(bytes(8 << 20))
    before = content(source)
    small = place / "small"
    with tmpfs(small, "size=4m,mode=755"):
        message = messages_of(command, source, small / "new", status=7)
        assert "copy rootfs/" in message
        assert "No space left" in message
        assert os.listdir(small) == []
    assert content(source) == before


def test_files_of_subordinate_ids_keep_their_owners(place: Path) -> None:
    ids = with_subordinate_ids(place)
    source = provisioned(place / "source", **as_user())
    secret = source / "rootfs/etc/secret"
    secret.write_text("x")
    secret.chmod(0o600)
    os.chown(secret, FIRST + 4, FIRST + 5)
    (place / "cache").mkdir()
    own(place / "cache")
    command, options = provision_command("copy", source, place / "new", cache=place / "cache", **as_user())
    done = subprocess.run([*ids["shell"], *command], **{**options, "user": 0, "group": 0}, check=False)
    assert done.returncode == 0, done.stderr
    assert content(place / "new") == content(source)
    assert (place / "new/rootfs/etc/secret").stat().st_uid == FIRST + 4
