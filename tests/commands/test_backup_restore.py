"""`provision backup`, `restore` and `export`: what comes back, what is told, what is refused."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.exports.backup import TAIL
from tests.support import builders
from tests.support.archives import END, Member, hard, pax, raw, special, tar
from tests.support.containers import Container, starter
from tests.support.disks import disk, tmpfs
from tests.support.kills import kill_at_random, run_forked
from tests.support.leftovers import staging_below
from tests.support.programs import End, program_that
from tests.support.provisioned import add_unusual_files, provisioned, served
from tests.support.subordinate import FIRST, with_subordinate_ids
from tests.support.termux import make_hard_links
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
    user_id,
)
from tests.support.trees import Entry, tree_of


def listed(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as opened:
        return {member.name: member for member in opened}


def rootfs_of(directory: Path) -> dict[str, Entry]:
    """The files of a rootfs, without what the file system alone decides."""
    tree = tree_of(directory / "rootfs")
    return {path: replace(entry, device=0) for path, entry in tree.items() if entry.type != "s"}


@pytest.fixture
def source(place: Path) -> Path:
    """A container of the unprivileged user."""
    return provisioned(place / "source", **as_user())


# Round trips


def access_lists_of(directory: Path) -> dict[tuple[Path, str], bytes]:
    """The access lists of a rootfs."""
    rootfs = directory / "rootfs"
    return {
        (path.relative_to(rootfs), name): os.getxattr(path, name, follow_symlinks=False)
        for path in rootfs.rglob("*")
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith("system.posix_acl_")
    }


@pytest.mark.parametrize("by", ["root", "user"])
def test_access_lists_come_back(place: Path, by: str) -> None:
    need_root()
    need("setfacl")
    options = as_user() if by == "user" else {}
    source = provisioned(place / "source", **options)
    rootfs = source / "rootfs"
    (rootfs / "srv/below").mkdir(parents=True)
    (rootfs / "srv/file").touch()
    if by == "user":
        own_all(rootfs / "srv")
    run("setfacl", "-m", "u:33:rwx,g:34:r", rootfs / "srv/file")
    run("setfacl", "-m", "u:33:rx,d:u:33:rwx,d:g:34:rx", rootfs / "srv")
    run("setfacl", "-m", "u:33:r", rootfs / "usr/one")
    expected = access_lists_of(source)
    assert len(expected) == 5  # one file has two names, one directory has two lists
    messages_of("backup", source, place / "b.tar", **options)
    message = messages_of("restore", place / "b.tar", place / "new", **options)
    assert "access lists" not in message
    assert access_lists_of(place / "new") == expected
    assert rootfs_of(place / "new") == rootfs_of(source)
    if by == "root":  # as docker and podman take them from an image
        messages_of("export", "--squash", "--format=oci-archive", source, place / "i.tar")
        messages_of(f"oci-archive:{place}/i.tar", place / "image")
        assert access_lists_of(place / "image") == expected
    with disk(place, "btrfs") as mounted:
        run("mount", "-o", "remount,noacl", mounted.path)
        own(mounted.path)
        message = messages_of("restore", place / "b.tar", mounted.path / "new", **options)
        assert "4 access lists (acl) can't be set here" in message
        assert rootfs_of(mounted.path / "new") == rootfs_of(source)


@pytest.mark.parametrize("restored_by", ["root", "user", "other user"])
@pytest.mark.parametrize("saved_by", ["root", "user"])
def test_a_container_of_another_processor_is_restored_and_runs(place: Path, saved_by: str, restored_by: str) -> None:
    """By qemu, as it did; for each who restores it, with the owners that they can have."""
    need_root()
    need("qemu-aarch64-static", "proot")
    program = program_that("arm64", End(42))
    made = builders.image(
        builders.layer(
            *(("etc", None), ("etc/os-release", b"ID=tiny\n"), ("bin", None)),
            ("bin/sh", program, 0o755),
            special("bin/owned", tarfile.REGTYPE, mode=0o4755, uid=33, gid=34),
        ),
        on="linux/arm64",
        run={"Cmd": ["/bin/sh"]},
    )
    by: dict[str, dict[str, Any]] = {"root": {}, "user": as_user()}
    by["other user"] = {**as_user(), "user": user_id() + 1, "group": user_id() + 1}
    by["other user"]["env"] = {**by["other user"]["env"], "HOME": str(place / "other")}
    with served(made) as reference:
        options = {"env": clean_environment(), **by[saved_by]}
        provision(reference, place / "source", "--platform=linux/arm64", **options, status=0)
    messages_of("backup", source := place / "source", place / "b.tar.zst", **by[saved_by])
    (place / "other").mkdir()
    if restored_by == "other user":
        os.chown(place / "other", user_id() + 1, user_id() + 1)
        os.chown(place / "b.tar.zst", user_id() + 1, user_id() + 1)
    elif restored_by == "user":
        own(place / "other")
        own(place / "b.tar.zst")
    new = place / "other/new"
    message = messages_of("restore", place / "b.tar.zst", new, **by[restored_by])
    assert ("to others in the backup" in message) is (restored_by != "root")
    old = (source / ".provision/ownership.mtree").read_text().splitlines()[2:]
    assert (new / ".provision/ownership.mtree").read_text().splitlines()[2:] == old
    status = (new / "rootfs/bin/owned").stat()
    assert (status.st_uid == 33) is (restored_by == "root")
    runner = by[restored_by] or as_user()
    if restored_by == "root":
        run("chmod", "-R", "a+rX", new)
    command = [str(new / "start.sh"), "--runtime", "proot", *(["--trust-dir"] if restored_by == "root" else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **{"cwd": "/", **runner})
    assert done.returncode == 42, done.stderr


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz", "b.tgz", "b.tar.xz", "b.tar.zst", "b.TAR.GZ", "b"])
def test_a_user_gets_back_what_was_saved(place: Path, source: Path, name: str) -> None:
    (source / "rootfs/etc/passwd").write_text("changed")
    (source / "rootfs/new").write_text("new")
    own_all(source)
    messages_of("backup", source, place / name, **as_user())
    messages_of("restore", place / name, place / "new", **as_user())
    assert rootfs_of(place / "new") == rootfs_of(source)
    old, new = (json.loads((path / ".provision/record.json").read_text()) for path in (source, place / "new"))
    assert new == {**old, "id": new["id"]}
    assert new["id"] not in ("", old["id"])
    assert (place / "new/start.sh").read_bytes() == (source / "start.sh").read_bytes()
    kinds = {"gz": b"\x1f\x8b", "xz": b"\xfd7zXZ", "zst": b"\x28\xb5\x2f\xfd", "r": b".p", "b": b".p"}
    begin = next(magic for end, magic in kinds.items() if name.lower().endswith(end))
    assert (place / name).read_bytes().startswith(begin)
    assert (place / name).stat().st_mode & 0o777 == 0o600


def test_root_gets_back_owners_attributes_holes_and_hard_links(place: Path) -> None:
    need_root()
    source = add_unusual_files(provisioned(place / "source"))
    os.unlink(source / "rootfs/usr/device")  # which is never created
    message = messages_of("backup", source, place / "b.tar.gz")
    assert "1 socket was left out" in message
    messages_of("restore", place / "b.tar.gz", place / "new")
    assert rootfs_of(place / "new") == rootfs_of(source)
    sparse = place / "new/rootfs/usr/sparse"
    assert os.getxattr(sparse, "user.note") == b"dear"
    assert sparse.stat().st_blocks <= 16


def test_a_backup_is_the_same_each_time(place: Path, source: Path) -> None:
    for name in ("one.tar.gz", "two.tar.gz"):
        messages_of("backup", source, place / name, **as_user())
    assert (place / "one.tar.gz").read_bytes() == (place / "two.tar.gz").read_bytes()


def test_owners_modes_and_devices_are_the_image_s_although_the_disk_has_none(place: Path, source: Path) -> None:
    messages_of("backup", source, place / "b.tar", **as_user())
    members = listed(place / "b.tar")
    owned, shadow = members["rootfs/usr/owned"], members["rootfs/etc/shadow"]
    assert (owned.uid, owned.gid, owned.mode) == (33, 34, 0o4755)
    assert (shadow.uid, shadow.gid, shadow.mode) == (0, 42, 0o640)
    assert members["rootfs/usr/closed"].mode == 0
    assert (members["rootfs/usr/null"].type, members["rootfs/usr/null"].devminor) == (tarfile.CHRTYPE, 3)
    assert members["rootfs/usr/two"].linkname == "rootfs/usr/one"
    need_root()
    messages_of("restore", place / "b.tar", place / "by-root")
    assert (place / "by-root/rootfs/usr/owned").stat().st_uid == 33
    assert (place / "by-root/rootfs/usr/owned").stat().st_mode & 0o7777 == 0o4755


def test_a_mode_that_was_changed_stays_changed(place: Path, source: Path) -> None:
    (source / "rootfs/etc/shadow").chmod(0o604)
    messages_of("backup", source, place / "b.tar", **as_user())
    shadow = listed(place / "b.tar")["rootfs/etc/shadow"]
    assert (shadow.gid, shadow.mode) == (42, 0o604)


def test_from_root_to_a_user_and_back_keeps_the_owners_of_the_image(place: Path) -> None:
    need_root()
    source = provisioned(place / "source")
    messages_of("backup", source, place / "one.tar")
    own(place / "one.tar")
    message = messages_of("restore", place / "one.tar", place / "user", **as_user())
    assert "to others in the backup" in message
    messages_of("backup", place / "user", place / "two.tar", **as_user())
    for name in ("etc/shadow", "usr/owned", "usr/null"):
        one, two = listed(place / "one.tar")[f"rootfs/{name}"], listed(place / "two.tar")[f"rootfs/{name}"]
        assert (one.uid, one.gid, one.mode, one.type) == (two.uid, two.gid, two.mode, two.type)


def test_a_restored_container_runs(place: Path, source: Path) -> None:
    options = starter("proot")
    messages_of("backup", source, place / "b.tar.gz", **as_user())
    user = as_user(XDG_STATE_HOME=str(place / "state"))
    messages_of("restore", place / "b.tar.gz", place / "new", **user)
    command = [str(place / "new/start.sh"), "--runtime", "proot", "/bin/cat", "/etc/os-release"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert (done.returncode, done.stdout) == (0, "ID=tiny\n")
    shown = provision("list", "--json", **user, status=0)
    rows = json.loads(shown.stdout)["directories"]
    assert str(place / "new") in [row["directory"] for row in rows]


def test_hard_links_of_proot_come_back_as_hard_links(place: Path, source: Path) -> None:
    rootfs = source / "rootfs"
    make_hard_links(Container(source), "usr/a", "usr/b")
    (rootfs / "usr/lost").symlink_to(rootfs / ".l2s/.l2s.gone0001")
    (source / ".provision/links").write_text(f"{rootfs}\n")
    own_all(source)
    assert "1 hard link of proot has no content any more: usr/lost" in messages_of(
        "backup", source, place / "b.tar", **as_user()
    )
    messages_of("restore", place / "b.tar", place / "new", **as_user())
    assert (place / "new/rootfs/usr/a").read_text() == "usr/a"
    assert (place / "new/rootfs/usr/a").stat().st_ino == (place / "new/rootfs/usr/b").stat().st_ino
    assert not (place / "new/rootfs/.l2s").exists()
    assert not (place / "new/.provision/links").exists()


def test_files_that_are_called_like_whiteouts_are_files(place: Path, source: Path) -> None:
    for name in (".wh.passwd", ".wh..wh..opq", ".wh..wh.plnk"):
        (source / "rootfs/etc" / name).write_text("x")
    own_all(source)
    messages_of("backup", source, place / "b.tar", **as_user())
    messages_of("restore", place / "b.tar", place / "new", **as_user())
    assert rootfs_of(place / "new") == rootfs_of(source)


def test_patterns_are_left_out(place: Path, source: Path) -> None:
    for name in ("var/cache/a", "home/joe/.cache/b", "home/joe/kept"):
        (source / "rootfs" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "rootfs" / name).touch()
    own_all(source)
    words = ("--exclude", "/var/cache/*", "--exclude=home/*/.cache", "--exclude", "usr/one")
    assert "3 files and directories were excluded" in messages_of(
        "backup", *words, source, place / "b.tar", **as_user()
    )
    names = listed(place / "b.tar").keys()
    assert {"rootfs/var/cache", "rootfs/home/joe/kept"} <= names
    assert not {"rootfs/var/cache/a", "rootfs/home/joe/.cache", "rootfs/home/joe/.cache/b", "rootfs/usr/one"} & names
    assert listed(place / "b.tar")["rootfs/usr/two"].isreg()


def test_unreadable_files_and_directories_are_saved(place: Path, source: Path) -> None:
    (source / "rootfs/closed").mkdir()
    (source / "rootfs/closed/file").write_text("secret")
    (source / "rootfs/closed/file").chmod(0)
    (source / "rootfs/closed").chmod(0)
    own_all(source)
    before = tree_of(source)
    messages_of("backup", source, place / "b.tar", **as_user())
    assert tree_of(source) == before
    with tarfile.open(place / "b.tar") as opened:
        assert opened.extractfile("rootfs/closed/file").read() == b"secret"  # type: ignore[union-attr]
        assert opened.getmember("rootfs/closed").mode == 0


def test_subordinate_ids_are_what_they_are_inside(place: Path, source: Path) -> None:
    ids = with_subordinate_ids(place)
    (source / ".provision/ids").write_text(f"many\n{FIRST}\n")
    for name, uid in (("secret", 4), ("etc/shadow", 41)):
        path = source / "rootfs" / name
        path.touch()
        os.chown(path, FIRST + uid, FIRST + uid)
        path.chmod(0o600)
    own(source / ".provision/ids")
    (place / "cache").mkdir()
    own(place / "cache")
    command, options = provision_command("backup", source, place / "b.tar", cache=place / "cache", **as_user())
    done = subprocess.run([*ids["shell"], *command], **{**options, "user": 0, "group": 0}, check=False)
    assert done.returncode == 0, done.stderr
    members = listed(place / "b.tar")
    assert (members["rootfs/secret"].uid, members["rootfs/etc/shadow"].uid) == (5, 42)
    messages_of("restore", place / "b.tar", place / "new", **as_user())
    assert (place / "new/.provision/ids").read_text() == "many\n"


def test_settings_of_this_machine_are_shown(place: Path) -> None:
    source = provisioned(place / "source")
    script = (source / "start.sh").read_text()
    assert "default_binds=''" in script
    (source / "start.sh").write_text(script.replace("default_binds=''", "default_binds='/data:/data'"))
    messages_of("backup", source, place / "b.tar")
    assert "start.sh has binds of the backup: /data:/data" in messages_of("restore", place / "b.tar", place / "new")
    assert "default_binds='/data:/data'" in (place / "new/start.sh").read_text()


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_a_backup_that_another_program_has_packed_again_is_as_good(place: Path, program: str) -> None:
    need_root()
    need(program)
    source = add_unusual_files(provisioned(place / "source"))
    os.unlink(source / "rootfs/usr/device")
    os.unlink(source / "rootfs/tmp/socket")
    os.unlink(source / "rootfs/usr/new\nline \udcff")  # bsdtar takes no name that isn't UTF-8
    messages_of("backup", source, place / "b.tar")
    (place / "out").mkdir()
    xattrs = ["--xattrs", "--xattrs-include=*"] if program == "tar" else []
    run(program, "-xp", *xattrs, "-f", place / "b.tar", "-C", place / "out")
    null = place / "out/rootfs/usr/null"
    assert null.is_char_device()
    packed = ["--format=posix", "--xattrs", "--sparse"] if program == "tar" else ["--format=pax", "--xattrs"]
    run(program, "-c", *packed, "-f", place / "again.tar", "-C", place / "out", ".")
    message = messages_of("restore", place / "again.tar", place / "new")
    assert "no digest" in message
    ours, theirs = rootfs_of(place / "new"), rootfs_of(source)
    if program == "bsdtar":  # which sets other times for directories that it can't write to
        ours = {path: replace(entry, mtime=0) for path, entry in ours.items()}
        theirs = {path: replace(entry, mtime=0) for path, entry in theirs.items()}
    assert ours == theirs


def test_standard_streams_will_do(place: Path, source: Path) -> None:
    command, options = provision_command("backup", source, "-", cache=place / "cache", **as_user())
    options["text"] = False
    saved = subprocess.run(command, check=False, **options)
    assert saved.returncode == 0, saved.stderr
    command, options = provision_command("restore", "-", place / "new", cache=place / "cache", **as_user())
    del options["text"], options["stdin"]
    done = subprocess.run(command, check=False, input=saved.stdout, **options)
    assert done.returncode == 0, done.stderr
    assert rootfs_of(place / "new") == rootfs_of(source)


def test_standard_output_that_is_closed_is_no_place_for_a_backup(place: Path, source: Path) -> None:
    command, options = provision_command("backup", source, "-", cache=place / "cache", **as_user())
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], check=False, **options)
    assert done.returncode == 2
    assert "standard output is closed" in done.stderr


def test_a_file_that_changes_meanwhile_is_told(place: Path, source: Path) -> None:
    """The reader of a FIFO decides when the archive is written."""
    (source / "rootfs/large").write_bytes(bytes(4 << 20))
    own_all(source)
    os.mkfifo(place / "fifo")
    own(place / "fifo")
    command, options = provision_command("backup", source, place / "fifo", cache=place / "cache", **as_user())
    with subprocess.Popen(command, **options) as process, (place / "fifo").open("rb") as reader:
        saved = reader.read(3 << 20)
        with (source / "rootfs/large").open("r+b") as file:
            file.truncate(3 << 20)
        saved += reader.read()
        _, message = process.communicate()
    assert process.returncode == 0, message
    assert "1 file was written to while being read: large" in message
    with tarfile.open(fileobj=io.BytesIO(saved)) as opened:
        assert opened.getmember("rootfs/large").size == 4 << 20
        assert opened.getmember("rootfs/usr/two").islnk()


# All or nothing


@pytest.mark.slow
def test_a_restore_that_is_killed_leaves_nothing_or_all(tmp_path: Path) -> None:
    source = provisioned(tmp_path / "source")
    messages_of("backup", source, tmp_path / "b.tar")
    (tmp_path / "place").mkdir()
    target = tmp_path / "place/above/target"
    (tmp_path / "canary").write_text("alive")

    def prepare() -> list[str]:
        shutil.rmtree(target.parent, ignore_errors=True)
        return ["restore", "--no-sync", str(tmp_path / "b.tar"), str(target)]

    kills = 0
    for was_killed in kill_at_random(100, prepare, tmp_path):
        kills += was_killed
        if target.exists():
            assert rootfs_of(target) == rootfs_of(source)
        elif kills % 5 == 0:
            assert run_forked(["restore", "--no-sync", str(tmp_path / "b.tar"), str(target)]) == 0
            assert rootfs_of(target) == rootfs_of(source)
            assert staging_below(tmp_path) == []
    assert kills > 80
    for left in staging_below(tmp_path):  # by the last kill
        shutil.rmtree(left)
    assert (tmp_path / "canary").read_text() == "alive"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["backup", "export"])
def test_an_archive_that_is_killed_is_the_old_one_or_the_new_one(tmp_path: Path, command: str) -> None:
    source = provisioned(tmp_path / "source")
    (tmp_path / "place").mkdir()
    target = tmp_path / "place/b.tar"
    messages_of(command, source, target)
    new = target.read_bytes()

    def prepare() -> list[str]:
        target.write_bytes(b"old")
        return [command, str(source), str(target)]

    kills = 0
    for was_killed in kill_at_random(60, prepare, tmp_path):
        kills += was_killed
        assert target.read_bytes() in ((b"old", new) if was_killed else (new,))
    messages_of(command, source, target)
    assert target.read_bytes() == new
    assert os.listdir(tmp_path / "place") == ["b.tar"]
    assert kills > 40


@pytest.mark.parametrize("command", ["backup", "export"])
def test_a_full_disk_leaves_the_old_archive(place: Path, command: str) -> None:
    need_root()
    source = provisioned(place / "source")
    small = place / "small"
    with tmpfs(small, "size=1m,mode=755"):
        (small / "b.tar").write_bytes(b"old")
        message = messages_of(command, source, small / "b.tar", status=7)
        assert f"write {small}/b.tar: No space left" in message
        assert os.listdir(small) == ["b.tar"]
        assert (small / "b.tar").read_bytes() == b"old"
        (source / "rootfs/large").write_bytes(os.urandom(3 << 20))
        message = messages_of(command, source, small / "b.tar.zst", status=7)  # by a program, or a module of Python
        assert "No space left" in message
        assert "df -h" in message
        if command == "export":
            image = ("export", "--squash", "--format=oci-archive", source)
            message = messages_of(*image, small / "b.tar", status=7)
            assert f"write the new layer to a temporary file, in {small}: No space left" in message
            assert "df -h" in message
            message = messages_of(*image, "-", status=7, env=clean_environment(TMPDIR=str(small)))
            assert "write the new layer to a temporary file: No space left" in message
            assert "TMPDIR=" in message
        assert os.listdir(small) == ["b.tar"]


def test_devices_and_times_that_can_not_be_restored_are_counted(place: Path) -> None:
    """Of devices only those that the image doesn't have: it has empty files for its own everywhere."""
    need_root()
    source = provisioned(place / "source")
    os.mknod(source / "rootfs/usr/mine", 0o60666, os.makedev(7, 200))
    os.mknod(source / "rootfs/usr/other", 0o20666, os.makedev(1, 3))
    with disk(place, "btrfs") as mounted:
        messages_of("move", source, mounted.path / "source")
        late = mounted.path / "source/rootfs/usr/late"
        late.touch()
        os.utime(late, (1 << 34, 1 << 34))
        messages_of("backup", mounted.path / "source", place / "b.tar")
    message = messages_of("restore", place / "b.tar", place / "new")
    assert "2 devices are empty files" in message
    assert "1 file has a time that can't be kept here" in message
    plain = provisioned(place / "plain")
    messages_of("backup", plain, place / "plain.tar")
    message = messages_of("restore", place / "plain.tar", place / "again")
    assert "devices" not in message
    assert "time" not in message


# Bad input


def test_an_archive_in_the_directory_itself_is_refused(source: Path) -> None:
    for command in ("backup", "export"):
        message = messages_of(command, source, source / "rootfs/b.tar", status=2, **as_user())
        assert "in the directory that goes into it" in message


@pytest.mark.parametrize("name", ["none/b.tar", "."])
def test_a_file_that_cannot_be_written_is_refused(place: Path, source: Path, name: str) -> None:
    assert "name a file" in messages_of("backup", source, place / name, status=2, **as_user())


def test_a_directory_without_a_record_of_owners_is_refused(place: Path, source: Path) -> None:
    (source / ".provision/ownership.mtree").unlink()
    assert "has no record of owners" in messages_of("backup", source, place / "b.tar", status=7, **as_user())
    assert not (place / "b.tar").exists()


def test_a_record_that_lies_is_refused(place: Path, source: Path) -> None:
    record = source / ".provision/ownership.mtree"
    record.write_bytes(record.read_bytes().replace(b"mode=", b"mood="))
    assert "the ownership record is damaged" in messages_of("backup", source, place / "b.tar", status=7, **as_user())
    assert sorted(os.listdir(place)) == ["source"]


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of root's container, or the user's."""
    folder = tmp_path_factory.mktemp("backup")
    source = provisioned(folder / "source")
    messages_of("backup", source, folder / "b.tar")
    return (folder / "b.tar").read_bytes()


def refused(tmp_path: Path, data: bytes, status: int = 6, *words: str) -> str:
    """Restore a backup, which has to be refused, with nothing left."""
    (tmp_path / "bad").write_bytes(data)
    (tmp_path / "place").mkdir(exist_ok=True)
    message = messages_of("restore", *words, tmp_path / "bad", tmp_path / "place/new", status=status)
    assert os.listdir(tmp_path / "place") == []
    assert message.count("\n") == 2, message
    return message


CUTS: list[Callable[[bytes], bytes]] = [
    lambda data: data[:100],
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data[:-1024],
    lambda data: data[:-TAIL],
    lambda data: data[: data.rindex(b"rootfs/usr/two")],
    lambda data: b"",
]


@pytest.mark.parametrize("cut", range(len(CUTS)))
@pytest.mark.parametrize("compression", ["", "gzip", "xz", "zstd"])
def test_a_backup_that_is_cut_short_is_noticed(tmp_path: Path, backup: bytes, cut: int, compression: str) -> None:
    if not compression:
        refused(tmp_path, CUTS[cut](backup))
        return
    need(compression)
    packed = subprocess.run([compression, "-c"], input=backup, capture_output=True, check=True).stdout
    if cut in (0, 1, 2, 6):
        refused(tmp_path, CUTS[cut](packed))
    cut_before = subprocess.run([compression, "-c"], input=CUTS[cut](backup), capture_output=True, check=True).stdout
    refused(tmp_path, cut_before)


def test_a_backup_that_is_damaged_is_noticed(tmp_path: Path, backup: bytes) -> None:
    at = backup.index(b"shared content")
    assert "doesn't match its digest" in refused(tmp_path, backup[:at] + b"S" + backup[at + 1 :])


@pytest.mark.parametrize("seed", range(60))
def test_no_byte_can_change_unnoticed(tmp_path: Path, backup: bytes, seed: int) -> None:
    """Headers, content and padding; behind the digest there are only zeros."""
    chance = random.Random(seed)
    # The content of busybox is most of it; every second change is elsewhere.
    busybox = backup.index(b"rootfs/bin/busybox")
    spans = [(busybox, busybox + 1_980_000)] if seed % 2 else [(0, busybox), (busybox + 1_980_000, len(backup) - 1536)]
    at = chance.randrange(*chance.choice(spans))
    (tmp_path / "bad").write_bytes(backup[:at] + bytes([backup[at] ^ chance.randint(1, 255)]) + backup[at + 1 :])
    (tmp_path / "place").mkdir()
    assert run_forked(["restore", "--no-sync", str(tmp_path / "bad"), str(tmp_path / "place/new")]) in (6, 7)
    assert os.listdir(tmp_path / "place") == []


def test_a_byte_behind_the_digest_can_not_change_unnoticed(tmp_path: Path, backup: bytes) -> None:
    at = len(backup) - TAIL + 2 * 512 - 1
    assert "doesn't match its digest" in refused(tmp_path, backup[:at] + b"x" + backup[at + 1 :])


def test_labels_and_attributes_of_a_machine_are_never_restored(tmp_path: Path, backup: bytes) -> None:
    need_root()
    names = ("security.selinux", "security.ima", "trusted.overlay.opaque", "user.note")
    header = tarfile.TarInfo("rootfs/file")
    header.pax_headers = {f"SCHILY.xattr.{name}": "value" for name in names}
    (tmp_path / "bad").write_bytes(hostile(backup, header))
    messages_of("restore", tmp_path / "bad", tmp_path / "new")
    assert os.listxattr(tmp_path / "new/rootfs/file") == ["user.note"]


@pytest.mark.parametrize("data", [b"\x89PNG" + bytes(2000), bytes(5000), b"text\n" * 500], ids=["png", "zeros", "text"])
def test_what_is_no_backup_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data)


def test_an_archive_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    assert "it is no backup: etc is in it" in refused(tmp_path, tar(("etc", None), ("etc/passwd", b"x")))
    assert "it lacks files" in refused(tmp_path, tar(("rootfs", None), ("rootfs/etc", None)))


def unpacked(backup: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(backup)) as opened:
        names = [member.name for member in opened if member.isreg() and not member.name.startswith("rootfs")]
        return {name: opened.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def hostile(backup: bytes, *members: Member, script: bytes = b"") -> bytes:
    """A backup with other members in its rootfs, or another start.sh."""
    files = unpacked(backup) | ({"start.sh": script} if script else {})
    folder: list[Member] = [(name, data) for name, data in files.items()]
    return tar((".provision", None), (".provision/generated", None), *folder, ("rootfs", None), *members)


ATTACKS: dict[str, tuple[Member, ...]] = {
    "climbs": (("../canary", b"dead"),),
    "climbs from the rootfs": (("rootfs/../../canary", b"dead"),),
    "absolute": (("/canary", b"dead"),),
    "beside": (("other", b"x"),),
    "rootfs is a symlink": (("rootfs", "/"), ("rootfs/canary", b"dead")),
    "folder is a symlink": ((".provision", "/"),),
    "start.sh is a symlink": (("start.sh", "/bin/sh"),),
    "record is a hard link": (hard(".provision/record.json", "rootfs/x"),),
    "hard link to a file outside": (hard("rootfs/x", "start.sh"),),
    "hard link that climbs": (hard("rootfs/x", "rootfs/../../canary"),),
    "hard link to the rootfs": (hard("rootfs/x", "rootfs"),),
    "below a file": (("rootfs/x", b""), ("rootfs/x/y", b"")),
    "name too long": ((f"rootfs/{'n' * 300}", b""),),
    "a device beside": (special("device", tarfile.CHRTYPE, devmajor=1, devminor=3),),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_backup_is_refused(tmp_path: Path, backup: bytes, attack: str) -> None:
    (tmp_path / "canary").write_text("alive")
    refused(tmp_path, hostile(backup, *ATTACKS[attack]))
    assert (tmp_path / "canary").read_text() == "alive"


def test_symlinks_of_a_backup_lead_nowhere_else(tmp_path: Path, backup: bytes) -> None:
    (tmp_path / "outside").mkdir()
    members = (
        ("rootfs/out", str(tmp_path / "outside")),
        ("rootfs/out/file", b"x"),
        ("rootfs/up", "../.provision"),
        ("rootfs/up/helper", b"x"),
        special("rootfs/disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
    )
    (tmp_path / "bad").write_bytes(hostile(backup, *members))
    messages_of("restore", tmp_path / "bad", tmp_path / "new")
    assert os.listdir(tmp_path / "outside") == []
    assert (tmp_path / "new/.provision/helper").read_bytes() != b"x"
    assert (tmp_path / "new/rootfs/disk").is_file()


def test_nothing_of_a_backup_that_would_run_here_is_used(tmp_path: Path, backup: bytes) -> None:
    """Programs of .provision/, the body of start.sh, its interpreter."""
    script = unpacked(backup)["start.sh"]
    evil = script.replace(b"#!/bin/sh -", b"#!/tmp/evil -", 1) + b"\ntouch /tmp/evil\n"
    with tarfile.open(fileobj=io.BytesIO(hostile(backup, script=evil))) as opened:
        members = [(member, opened.extractfile(member)) for member in opened]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as written:
        for member, content in members:
            written.addfile(member, content)
        for name in ("helper", "proot-probe", "seccomp.bpf", "run/1", "proot-facts", "links"):
            header = special(f".provision/{name}", tarfile.REGTYPE, mode=0o755)
            header.size = 4
            written.addfile(header, io.BytesIO(b"evil"))
    (tmp_path / "bad").write_bytes(archive.getvalue())
    message = messages_of("restore", tmp_path / "bad", tmp_path / "new")
    assert "start.sh was edited" in message
    assert (tmp_path / "new/start.sh").read_bytes() == script
    assert (tmp_path / "new/.provision/start.sh.old").stat().st_mode & 0o111 == 0
    files = [path for path in (tmp_path / "new/.provision").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"evil" in path.read_bytes()] == ["start.sh.old"]
    assert not (tmp_path / "new/.provision/run").exists()


CONTRADICTIONS = {
    "start.sh": b"#!/bin/sh\nrm -rf /\n",
    ".provision/record.json": b"{",
    ".provision/config.json": b"{}",
    ".provision/manifest.json": b"{}",
    ".provision/ownership.mtree": b"#mtree\n/etc/passwd type=file\n",
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_files_of_provision_that_contradict_each_other_are_refused(tmp_path: Path, backup: bytes, name: str) -> None:
    files = unpacked(backup)
    assert name in files
    files[name] = CONTRADICTIONS[name]
    data = tar((".provision", None), (".provision/generated", None), *files.items(), ("rootfs", None))
    refused(tmp_path, data, 7 if name.endswith("record.json") else 6)


def test_a_bomb_is_refused(tmp_path: Path, backup: bytes) -> None:
    assert "more than the" in refused(tmp_path, hostile(backup, ("rootfs/zeros", bytes(3 << 20))), 7, "--max-size=2M")
    sparse = pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0", GNU_sparse_realsize=b"9000000000") + raw(
        b"rootfs/sparse", content=b"0\n".ljust(512, b"\0")
    )
    data = hostile(backup)
    refused(tmp_path, data[: data.rindex(b"rootfs/") // 512 * 512 + 512] + sparse + END, 7, "--max-size=1G")


def test_what_is_there_is_not_replaced(tmp_path: Path, backup: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(backup)
    target = provisioned(tmp_path / "target")
    before = tree_of(target)
    assert "exists" in messages_of("restore", tmp_path / "b.tar", target, status=8)
    assert tree_of(target) == before
    assert "can't be the root directory" in messages_of("restore", tmp_path / "b.tar", "/", status=2)
    assert "there is no file" in messages_of("restore", tmp_path / "none", tmp_path / "new", status=3)


# Exports


def test_an_export_is_what_docker_export_would_be(place: Path, source: Path) -> None:
    (source / "rootfs/etc/new").write_text("new")
    own_all(source)
    messages_of("export", source, place / "rootfs.tar.gz", **as_user())
    members = listed(place / "rootfs.tar.gz")
    assert members["."].isdir()
    assert members["usr/owned"].uid == 33
    assert (members["etc/new"].uid, members["etc/new"].gid) == (0, 0)
    assert not [name for name in members if name.startswith((".provision", "rootfs", "start.sh"))]


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_programs_make_the_image_s_tree_of_an_export(place: Path, program: str) -> None:
    need_root()
    need(program)
    by_root = add_unusual_files(provisioned(place / "source"))
    messages_of("export", by_root, place / "b.tar")
    (place / "out/rootfs").mkdir(parents=True)
    xattrs = ["--xattrs", "--xattrs-include=*"] if program == "tar" else []
    run(program, "-xp", *xattrs, "-f", place / "b.tar", "-C", place / "out/rootfs")
    ours, theirs = rootfs_of(place / "out"), rootfs_of(by_root)
    for tree in (ours, theirs):
        del tree["usr/null"]  # a device in the image, an empty file here
    assert {path: replace(entry, mtime=0) for path, entry in ours.items()} == {
        path: replace(entry, mtime=0) for path, entry in theirs.items()
    }
    assert os.getxattr(place / "out/rootfs/usr/sparse", "user.note") == b"dear"


def test_skopeo_and_umoci_take_an_export_as_a_layer(place: Path, source: Path) -> None:
    need("umoci")
    need_root()
    messages_of("export", source, place / "b.tar", **as_user())
    run("umoci", "init", "--layout", place / "layout")
    run("umoci", "new", "--image", f"{place}/layout:x")
    run("umoci", "raw", "add-layer", "--image", f"{place}/layout:x", place / "b.tar")
    run("umoci", "unpack", "--image", f"{place}/layout:x", place / "bundle")
    tree = tree_of(place / "bundle/rootfs")
    assert tree["usr/owned"].owner == (33, 34)
    assert tree["usr/two"].same_as == "usr/one"


OWNERS: dict[str, tuple[dict[str, str], tuple[int, int], str]] = {
    "apk": (
        {"lib/apk/db/installed": "P:x\nF:opt/app\nM:5:6:755\nR:found\na:0:42:640\nZ:Q1\nR:plain\n"},
        (0, 42),
        "package databases",
    ),
    "pacman": (
        {"var/lib/pacman/local/x-1/mtree": "#mtree\n/set type=file uid=7 gid=8 mode=644\n./opt/app/found time=1.0\n"},
        (7, 8),
        "package databases",
    ),
    "dpkg": (
        {
            "var/lib/dpkg/statoverride": "web #77 2755 /opt/app/found\nnobody web 2755 /other\n",
        },
        (33, 77),
        "package databases",
    ),
    "home": (
        {"etc/passwd": "root:x:0:0::/root:\njoe:x:1000:1001::/opt/app/found:\n"},
        (1000, 1001),
        "home directories",
    ),
    "none": ({}, (0, 0), ""),
}


@pytest.mark.parametrize("case", OWNERS)
def test_owners_of_files_that_the_image_does_not_know_are_found(place: Path, source: Path, case: str) -> None:
    files, owner, told = OWNERS[case]
    for name, content in files.items():
        path = source / "rootfs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode()
        if name.endswith("mtree"):
            data = subprocess.run(["gzip", "-c"], input=data, capture_output=True, check=True).stdout
        path.write_bytes(data)
    (source / "rootfs/opt/app").mkdir(parents=True)
    (source / "rootfs/opt/app/found").mkdir()
    (source / "rootfs/opt/app/found/below").touch()
    (source / "rootfs/usr/owned-too").touch()
    own_all(source)
    message = messages_of("export", source, place / "b.tar", **as_user())
    members = listed(place / "b.tar")
    found, below = members["opt/app/found"], members["opt/app/found/below"]
    assert (found.uid, found.gid) == owner
    assert (below.uid, below.gid) == owner
    assert (members["usr/owned-too"].uid, members["usr/owned-too"].gid) == (0, 0)
    count = re.search(r"(\d+) files that the image doesn't have got an owner other than root: (.*)", message)
    assert bool(count) is bool(told)
    assert told in message


def test_hostile_package_databases_do_no_harm(place: Path, source: Path) -> None:
    rootfs = source / "rootfs"
    (rootfs / "var/lib/pacman/local/x").mkdir(parents=True)
    (rootfs / "lib/apk/db").mkdir(parents=True)
    (rootfs / "var/lib/dpkg").mkdir(parents=True)
    (rootfs / "lib/apk/db/installed").symlink_to("/etc/shadow")
    os.mkfifo(rootfs / "var/lib/dpkg/statoverride")
    (rootfs / "var/lib/pacman/local/x/mtree").write_bytes(b"\x1f\x8b damaged")
    (rootfs / "new").touch()
    own_all(source)
    messages_of("export", source, place / "b.tar", **as_user())
    assert listed(place / "b.tar")["new"].uid == 0


def test_formats_are_named(source: Path) -> None:
    assert "is none of tar" in messages_of("export", "--format", "zip", source, "x", status=2, **as_user())


def test_what_was_made_for_binds_is_no_change_in_a_restored_directory(source: Path, place: Path) -> None:
    """start.sh has written it down in `.provision/mount-points`."""
    made = source / "rootfs/made/for/bind"
    made.mkdir(parents=True)
    (source / ".provision/mount-points").write_text("/made\n/made/for\n/made/for/bind\n")
    own_all(source)
    messages_of("backup", source, place / "a.tar", **as_user())
    messages_of("restore", place / "a.tar", place / "restored", **as_user())
    done = provision("diff", place / "restored")
    assert "made" not in done.stdout, done.stdout
