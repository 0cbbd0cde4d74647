"""`provision remove`: what is removed, what is refused, and that nothing else is ever touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import starter
from tests.support.disks import disk
from tests.support.guests import SCRIPT, guest
from tests.support.kills import kill_at_random, run_forked
from tests.support.leftovers import processes_left, staging_below
from tests.support.provisioned import own_all, provisioned
from tests.support.subordinate import FIRST, with_subordinate_ids
from tests.support.terminal import on_terminal
from tests.support.tools import (
    as_user,
    clean_environment,
    need,
    need_root,
    open_terminal,
    own,
    provision,
    provision_command,
    run,
)
from tests.support.trees import make_deep, tree_of


def fake(directory: Path) -> Path:
    """Make what passes for a provisioned directory, without an image."""
    (directory / "rootfs/etc").mkdir(parents=True)
    (directory / "rootfs/etc/file").write_text("x")
    (directory / ".provision").mkdir()
    (directory / ".provision/record.json").write_text("{}")
    (directory / "start.sh").touch(mode=0o755)
    directory.chmod(0o700)
    return directory


def remove(*words: str | Path, status: int = 0, **options: Any) -> str:
    done = provision("remove", *words, **{"env": clean_environment(), **options})
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def remove_with_mount(source: Path, point: Path, target: Path, status: int) -> str:
    """Remove a directory where `source` is mounted at `point`, in a namespace that no other process gets a copy of."""
    command, options = provision_command("remove", "--yes", target, cache=point)
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    unshare = ["unshare", "-m", "sh", "-c", script, "sh", str(source), str(point)]
    done = subprocess.run([*unshare, *command], check=False, **options)
    assert done.returncode == status, done.stderr
    return str(done.stderr)


@pytest.fixture
def canaries(tmp_path: Path) -> Iterator[Path]:
    """A directory to work in, with files beside, above and behind it that must stay."""
    (tmp_path / "above").mkdir()
    (tmp_path / "above/place").mkdir()
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "above/canary").write_text("alive")
    (tmp_path / "above/place/.hidden").write_text("alive")
    (tmp_path / "behind/deep").mkdir(parents=True)
    (tmp_path / "behind/deep/canary").write_text("alive")
    around = ("above", "canary", "behind")
    before = {path: entry for path, entry in tree_of(tmp_path).items() if path.startswith(around) and entry.type == "f"}
    yield tmp_path / "above/place"
    after = tree_of(tmp_path)
    assert len(before) == 4
    assert {path: after.get(path) for path in before} == before


def test_all_of_a_directory_goes_and_the_list_forgets_it(tmp_path: Path) -> None:
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    kept = provisioned(tmp_path / "kept", env=env)
    gone = provisioned(tmp_path / "gone", env=env)
    assert remove(gone, env=env) == f"removed {gone}\n"
    assert not gone.exists()
    assert staging_below(tmp_path) == []
    listed = json.loads(provision("list", "--json", env=env).stdout)["directories"]
    assert [row["directory"] for row in listed] == [str(kept)]


def test_several_at_once_end_with_the_first_that_cannot_be(tmp_path: Path) -> None:
    first, last = fake(tmp_path / "a"), fake(tmp_path / "c")
    assert "there is no directory" in remove(first, tmp_path / "b", last, status=3)
    assert (first.exists(), last.exists()) == (False, True)


def test_a_container_goes_by_its_name_with_the_programs_that_start_it(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "empty").mkdir()
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"), HOME=str(tmp_path / "home"))
    web, other = provisioned(tmp_path / "web", env=env), provisioned(tmp_path / "other", env=env)
    for directory in (web, other):
        assert provision("link", directory, env=env).returncode == 0
    (tmp_path / "home/.local/bin/mine").write_text("#!/bin/sh\n")
    message = remove("web", env=env, cwd=tmp_path / "empty")
    assert message == f"removed {web}\nremoved {tmp_path}/home/.local/bin/web, which started it\n"
    assert sorted(os.listdir(tmp_path / "home/.local/bin")) == ["mine", "other"]
    assert not web.exists()


def test_what_is_here_comes_before_a_container_of_that_name_elsewhere(tmp_path: Path) -> None:
    """Else `provision remove web` would remove another one than what the user sees."""
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    web = provisioned(tmp_path / "web", env=env)
    (tmp_path / "here/web").mkdir(parents=True)
    (tmp_path / "here/web/file").touch()
    assert "was not made by provision" in remove("web", status=8, env=env, cwd=tmp_path / "here")
    assert web.exists()


# What is refused


@pytest.mark.parametrize("what", ["empty", "home", "file", "link", "no record", "record is a directory", "slash"])
def test_what_provision_has_not_made_is_refused(canaries: Path, what: str) -> None:
    target = canaries / "target"
    if what == "file":
        target.write_text("dear")
    elif what == "link":
        target.symlink_to(fake(canaries.parent / "real"))
    else:
        target.mkdir()
        if what == "home":
            (target / "documents").mkdir()
        elif what == "no record":
            shutil.rmtree(fake(canaries / "other").rename(target / "x") / ".provision")
        elif what == "record is a directory":
            (target / ".provision/record.json").mkdir(parents=True)
    before = tree_of(canaries)
    name: str | Path = f"{target}/" if what == "slash" else target
    message = remove("--yes", name, status=8)
    assert message.count("\n") == 2
    assert tree_of(canaries) == before
    if what == "link":
        assert (canaries.parent / "real/start.sh").exists()
        shutil.rmtree(canaries.parent / "real")


@pytest.mark.parametrize("name", ["/", "//", "/.."])
def test_the_root_directory_is_refused(name: str) -> None:
    assert "DIR can't be" in remove("--yes", name, status=2)


def test_a_symlink_on_the_way_is_followed_but_not_the_last_one(canaries: Path) -> None:
    target = fake(canaries / "target")
    (canaries / "way").symlink_to(canaries)
    remove(canaries / "way/target")
    assert not target.exists()


def test_a_directory_of_a_stranger_is_refused(place: Path) -> None:
    need_root()
    target = fake(place / "target")
    (target / ".provision").chmod(0o777)
    assert "may be written to by everybody" in remove("--yes", target, status=8)
    assert (target / "start.sh").exists()
    remove("--yes", "--trust-dir", target)
    assert not target.exists()


def test_files_that_provision_has_not_made_are_asked_for(tmp_path: Path) -> None:
    target = fake(tmp_path / "target")
    (target / "thesis\x1b[2J").write_text("years")
    message = remove(target, status=8)
    assert "thesis\\x1b[2J" in message
    assert "--yes" in message
    assert (target / "thesis\x1b[2J").exists()
    remove("--yes", target)
    assert not target.exists()


@pytest.mark.parametrize(("answer", "is_removed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False)])
def test_a_question_is_answered_on_a_terminal(tmp_path: Path, answer: str, is_removed: bool) -> None:
    target = fake(tmp_path / "target")
    (target / "thesis").touch()
    ours, theirs = open_terminal()
    command, options = provision_command("remove", target, cache=tmp_path / "cache")
    options.update(stdin=theirs, stdout=theirs, stderr=theirs)
    with subprocess.Popen(command, **options) as process:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, answer.encode())
    os.close(ours)
    assert process.returncode == (0 if is_removed else 8)
    assert target.exists() is not is_removed


# Mounts


@pytest.mark.parametrize("where", ["target", "target/rootfs", "target/rootfs/home/deep", "target/.provision/shm"])
@pytest.mark.parametrize("namespace", ["own", "other"])
def test_nothing_is_removed_while_something_is_mounted_below(canaries: Path, where: str, namespace: str) -> None:
    """A bind mount of the same file system, which no device number tells from a directory."""
    need_root()
    need("unshare", "mount", "umount")
    target = fake(canaries / "target")
    point = canaries / where
    point.mkdir(parents=True, exist_ok=True)
    before = tree_of(target)
    behind = canaries.parent.parent / "behind"
    if namespace == "own":
        message = remove_with_mount(behind, point, target, 8)
    else:
        bind = ["mount", "--bind", str(behind), str(point)]
        script = '"$@" && echo begun && exec sleep 60'
        with guest("unshare", "-m", "sh", "-c", script, "sh", *bind) as process:
            message = remove("--yes", target, status=8)
            assert str(process.pid) in message
    assert f"mounted at {point}" in message or where == "target"
    assert tree_of(target) == before
    remove("--yes", target)


def test_a_mount_behind_a_chroot_in_another_namespace_is_seen(canaries: Path) -> None:
    """Its mount point has another path there: that of the directory that is its root."""
    need_root()
    need("unshare", "mount", "chroot", "busybox")
    target = fake(canaries / "target")
    (target / "rootfs/home").mkdir()
    around = canaries / "around"
    (around / "inner").mkdir(parents=True)
    shutil.copy("/bin/busybox", around / "busybox")
    script = (
        'mount --bind "$1/target" "$1/around/inner" && mount --bind "$2" "$1/around/inner/rootfs/home" &&'
        ' exec chroot "$1/around" /busybox sh -c "echo begun; exec /busybox sleep 60"'
    )
    with guest("unshare", "-m", "sh", "-c", script, "sh", canaries, canaries.parent.parent / "behind"):
        message = remove("--yes", target, status=8)
    assert "/inner" in message
    assert (target / "rootfs/etc/file").exists()
    remove(target)
    shutil.rmtree(around)


def test_a_part_that_is_mounted_elsewhere_is_data_that_somebody_uses(canaries: Path) -> None:
    need_root()
    target = fake(canaries / "target")
    elsewhere = canaries / "elsewhere"
    elsewhere.mkdir()
    assert f"is mounted at {elsewhere}" in remove_with_mount(target / "rootfs/etc", elsewhere, target, 8)
    assert (target / "rootfs/etc/file").exists()
    elsewhere.rmdir()
    remove(target)


def test_mounts_of_other_directories_do_not_matter(canaries: Path) -> None:
    """Not even beside it, with a name that begins like its own, or above it."""
    need_root()
    target = fake(canaries / "target")
    beside = canaries / "target2"
    beside.mkdir()
    remove_with_mount(canaries.parent.parent / "behind", beside, target, 0)
    beside.rmdir()
    assert not target.exists()


def test_a_subvolume_below_is_refused_whole(tmp_path: Path) -> None:
    with disk(tmp_path, "btrfs") as mounted:
        need("btrfs")
        target = fake(mounted.path / "target")
        run("btrfs", "subvolume", "create", target / "rootfs/machines")
        (target / "rootfs/machines/precious").write_text("dear")
        assert "begins at rootfs/machines" in remove("--yes", target, status=8)
        assert (target / "rootfs/machines/precious").read_text() == "dear"
        assert (target / "rootfs/etc/file").exists()


# What runs


@pytest.mark.parametrize("runtime", ["proot", "userns", "chroot"])
def test_what_runs_is_stopped_after_a_yes(place: Path, runtime: str) -> None:
    options = starter(runtime)
    by_user = {} if runtime == "chroot" else as_user()
    target = provisioned(place / "target", **by_user)
    command = [str(target / "start.sh"), "--runtime", runtime, "/bin/sh", "-c", "echo begun; exec sleep 60"]
    options |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        message = remove(target, status=8, **by_user)
        assert "this runs from" in message
        assert "--yes" in message
        assert process.poll() is None
        remove("--yes", target, **by_user)
        process.wait(60)
    assert not target.exists()
    assert processes_left(target) == []


def test_what_was_started_without_start_sh_is_stopped_too(place: Path) -> None:
    need("proot")
    target = provisioned(place / "target", **as_user())
    with guest(
        "proot", "-r", target / "rootfs", "-b", "/dev", "-w", "/", "/bin/sh", "-c", SCRIPT, **as_user()
    ) as process:
        remove("--yes", target, **as_user())
        process.wait(60)
    assert not target.exists()


# All or nothing


def test_what_is_deep_closed_and_linked_goes(place: Path) -> None:
    target = fake(place / "target")
    make_deep(target / "rootfs")
    (target / "rootfs/link").symlink_to(place)
    (place / "canary").write_text("alive")
    for number in range(3):
        (target / f"rootfs/closed{number}/sub").mkdir(parents=True)
        (target / f"rootfs/closed{number}/sub").chmod(0)
        (target / f"rootfs/closed{number}").chmod((0o000, 0o300, 0o500)[number])
    own_all(target)
    remove(target, **as_user())
    assert sorted(os.listdir(place)) == ["canary"]


@pytest.mark.slow
def test_killed_at_a_hundred_moments_it_is_whole_or_gone(canaries: Path, tmp_path: Path) -> None:
    target = canaries / "target"

    def prepare() -> list[str]:
        shutil.rmtree(target, ignore_errors=True)
        fake(target)
        for number in range(4):
            (target / f"rootfs/usr/{number}/deep").mkdir(parents=True)
            (target / f"rootfs/usr/{number}/file").write_text("x")
            (target / f"rootfs/usr/{number}/out").symlink_to(tmp_path / "behind")
        return ["remove", str(target)]

    prepare()
    whole = {path: entry.sha256 for path, entry in tree_of(target).items()}
    kills = 0
    for was_killed in kill_at_random(100, prepare, tmp_path):
        kills += was_killed
        if target.exists():
            assert {path: entry.sha256 for path, entry in tree_of(target).items()} == whole
            assert run_forked(["remove", str(target)]) == 0
        elif was_killed:
            assert run_forked(["remove", str(target)]) in (0, 3)
        assert not target.exists()
        assert staging_below(canaries) == []
    assert kills > 80
    (tmp_path / "steps").unlink()


def test_a_full_disk_is_no_hindrance(tmp_path: Path) -> None:
    """There is no room for a staging directory then. The target gets its name."""
    need_root()
    full = tmp_path / "full"
    full.mkdir()
    run("mount", "-t", "tmpfs", "-o", "nr_inodes=40", "tmpfs", full)
    try:
        target = fake(full / "target")
        for number in range(40):
            try:
                (target / f"rootfs/{number}").touch()
            except OSError:
                break
        else:
            pytest.fail("the disk isn't full")
        remove(target)
        assert os.listdir(full) == []
    finally:
        run("umount", full)


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target = fake(tmp_path / "target")
    staging = tmp_path / ".target.provision"
    staging.mkdir(mode=0o700)
    target.rename(staging / "old")
    assert "removed already" in remove(target)
    assert os.listdir(tmp_path) == []


def test_a_run_at_work_is_not_disturbed(tmp_path: Path) -> None:
    need("flock")
    target = fake(tmp_path / "target")
    staging = tmp_path / ".target.provision"
    staging.mkdir(mode=0o700)
    holder = ["flock", str(staging), "sh", "-c", "echo begun; exec sleep 60"]
    with guest(*holder):
        assert "another run is at work" in remove(target, status=8)
        assert (target / "start.sh").exists()
    staging.rmdir()


# Subordinate ids


def test_files_of_subordinate_ids_go_through_a_namespace(place: Path) -> None:
    ids = with_subordinate_ids(place)
    target = fake(place / "target")
    own_all(target)
    for number, name in enumerate(("var", "var/lib", "var/lib/data")):
        (target / "rootfs" / name).mkdir(mode=0o700)
        os.chown(target / "rootfs" / name, FIRST + number, FIRST + number)
    command, options = provision_command("remove", target, cache=place / "cache", **as_user())
    (place / "cache").mkdir()
    own(place / "cache")
    done = subprocess.run([*ids["shell"], *command], **{**options, "user": 0, "group": 0}, check=False)
    assert done.returncode == 0, done.stderr
    assert not target.exists()


def test_files_of_others_are_refused_before_anything_is_touched(place: Path) -> None:
    ids = with_subordinate_ids(place)
    target = fake(place / "target")
    own_all(target)
    (target / "rootfs/theirs").mkdir()
    before = tree_of(target)
    command, options = provision_command("remove", target, cache=place / "cache", **as_user())
    done = subprocess.run([*ids["shell"], *command], **{**options, "user": 0, "group": 0}, check=False)
    assert done.returncode == 7, done.stderr
    assert "sudo provision remove" in done.stderr
    assert tree_of(target) == before


def test_immutable_files_are_named_until_they_are_gone(place: Path) -> None:
    need_root()
    need("chattr")
    with disk(place, "ext4") as mounted:
        state: dict[str, Any] = {"env": clean_environment(XDG_STATE_HOME=str(place / "state"))}
        directory = provisioned(mounted.path / "a box", **state)
        run("chattr", "+i", directory / "rootfs/usr/one")
        left = mounted.path / ".a box.provision"
        done = provision("remove", "--yes", directory, **state)
        assert done.returncode == 7
        assert f"chattr -R -i '{left}'" in done.stderr
        for _ in range(2):
            (row,) = json.loads(provision("list", "--json", **state).stdout)["directories"]
            assert (row["directory"], row["left"], row["is_gone"]) == (str(directory), str(left), True)
        _, shown = on_terminal("list", columns=250, cache=place, **state["env"])
        assert "removed in part" in shown
        assert f"provision remove '{directory}'" in shown
        subprocess.run(["chattr", "-R", "-f", "-i", left], check=False)  # it fails for links
        assert provision("remove", "--yes", directory, **state).returncode == 0
        assert not left.exists()
        assert json.loads(provision("list", "--json", **state).stdout)["directories"] == []
