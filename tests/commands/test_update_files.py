"""`provision update` and files that are hard to read, to name or to copy, as a user without root may make them."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.disks import disk
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need, need_root, own, provision, run
from tests.support.trees import tree_of

OLD: list[Member] = [
    ("usr/lib/same", b"same"),
    ("usr/lib/changed", b"changed 1"),
    ("usr/names/a", b"names 1"),
    hard("usr/names/b", "usr/names/a"),
    hard("usr/names/c", "usr/names/a"),
    ("etc/conf", b"conf 1"),
    special("usr/lib/closed", tarfile.DIRTYPE, mode=0o000),
    ("usr/lib/closed/x", b"x"),
    special("usr/lib/secret", tarfile.REGTYPE, mode=0o000),
    special("usr/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
]
NEW: list[Member] = [
    *(member for member in OLD if isinstance(member, tarfile.TarInfo) or "changed" not in member[0]),
    ("usr/lib/changed", b"changed 2"),
]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        yield running


@pytest.fixture
def directory(place: Path, registry: ScriptedRegistry) -> Path:
    """A directory of the old image, that of the unprivileged user; the registry has the new one."""
    push(registry, OLD)
    provision(f"{registry.host}/image", place / "dir", "--platform=linux/amd64", **as_user(), status=0)
    push(registry, NEW)
    return place / "dir"


def push(registry: ScriptedRegistry, members: list[Member]) -> None:
    registry.push("image", builders.image(builders.layer(*members)))


def update(directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return provision("update", directory, "--yes", "--no-keep", *words, **as_user(), status=status)


def by_user(script: str, *words: str | Path) -> None:
    """Run a script of the shell as the unprivileged user."""
    run("sh", "-euc", script, "sh", *words, **as_user())


def test_directories_and_files_that_are_closed(directory: Path) -> None:
    """Also to their owner, who is the one that updates; only root can look at all of them."""
    need_root()
    rootfs = directory / "rootfs"
    by_user(
        """
        cd "$1"
        mkdir -p home/closed/below/deep opt usr/lib/mine
        echo 1 >home/closed/below/deep/file; echo 2 >home/closed/secret; echo 3 >opt/secret; echo 4 >usr/lib/mine/x
        chmod 000 home/closed/secret opt/secret home/closed/below/deep home/closed/below home/closed
        chmod 0555 usr/lib/mine
        mkdir opt/unsearchable; echo 5 >opt/unsearchable/x; chmod 0600 opt/unsearchable
        echo changed >etc/conf; chmod 0200 etc/conf
        """,
        rootfs,
    )
    before = tree_of(rootfs)
    update(directory)
    after = tree_of(rootfs)
    added = {path for path in before if path.startswith(("home/closed", "opt/", "usr/lib/mine"))}
    assert len(added) == 10
    assert {path: after.get(path) for path in added} == {path: before[path] for path in added}
    assert after["etc/conf"] == before["etc/conf"]
    assert (rootfs / "usr/lib/changed").read_bytes() == b"changed 2"


@pytest.mark.parametrize("length", [235, 241, 242, 255])
def test_long_names(directory: Path, registry: ScriptedRegistry, length: int) -> None:
    """A name that leaves no room for `.provision-new` behind it."""
    name, other = "n" * length, "o" * length
    rootfs = directory / "rootfs"
    push(registry, [*NEW, (f"etc/{other}", b"of the image")])
    by_user('echo mine >"$1/$2"; echo mine >"$1/etc/$3"', rootfs, name, other)
    done = update(directory)
    assert (rootfs / "etc" / other).read_text() == "mine\n"
    (beside,) = (found for found in os.listdir(rootfs / "etc") if found.endswith(".provision-new"))
    assert (rootfs / "etc" / beside).read_bytes() == b"of the image"
    assert f"/etc/{beside}" in done.stdout
    assert len(beside) <= 255
    # What came beside it is replaced by that of the next update.
    push(registry, [*NEW, (f"etc/{other}", b"of the next image")])
    update(directory)
    assert (rootfs / "etc" / beside).read_bytes() == b"of the next image"
    assert len([found for found in os.listdir(rootfs / "etc") if found.endswith(".provision-new")]) == 1


def test_files_that_are_no_files(directory: Path) -> None:
    rootfs = directory / "rootfs"
    for name in ("home", "opt"):
        own_directory(rootfs / name)
    os.mkfifo(rootfs / "home/fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(rootfs / "home/socket"))
    os.symlink("/nowhere", rootfs / "home/link")
    with (rootfs / "home/holes").open("wb") as holes:
        holes.truncate(1 << 33)
        holes.seek(1 << 32)
        holes.write(b"middle")
    (rootfs / "opt/one").write_bytes(b"one")
    os.link(rootfs / "opt/one", rootfs / "home/two")
    # A change to one name of several of the image, which the user's program has written as a new file.
    (rootfs / "usr/names/new").write_bytes(b"mine")
    (rootfs / "usr/names/new").rename(rootfs / "usr/names/b")
    hand_over(rootfs)
    update(directory)
    assert stat.S_ISFIFO((rootfs / "home/fifo").stat().st_mode)
    assert stat.S_IMODE((rootfs / "home/fifo").stat().st_mode) == 0o640
    assert stat.S_ISSOCK((rootfs / "home/socket").stat().st_mode)
    assert os.readlink(rootfs / "home/link") == "/nowhere"
    holes_state = (rootfs / "home/holes").stat()
    assert holes_state.st_size == 1 << 33
    assert holes_state.st_blocks * 512 < 1 << 20
    assert (rootfs / "opt/one").samefile(rootfs / "home/two")
    assert (rootfs / "usr/names/a").samefile(rootfs / "usr/names/c")
    assert (rootfs / "usr/names/b").read_bytes() == b"mine"
    assert (rootfs / "usr/names/a").read_bytes() == b"names 1"


def own_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    own(path)


def hand_over(rootfs: Path) -> None:
    if os.geteuid() == 0:
        uid = rootfs.stat().st_uid
        run("chown", "-hR", f"{uid}:{uid}", rootfs)


def test_a_file_of_the_image_that_is_changed_under_all_its_names(directory: Path) -> None:
    """As an editor does that writes to the file itself."""
    rootfs = directory / "rootfs"
    (rootfs / "usr/names/a").write_bytes(b"mine, longer")
    os.link(rootfs / "usr/names/a", rootfs / "usr/names/d")
    hand_over(rootfs)
    update(directory)
    names = [rootfs / "usr/names" / name for name in "abcd"]
    assert {name.read_bytes() for name in names} == {b"mine, longer"}
    assert len({name.stat().st_ino for name in names}) == 1


def test_immutable_files(place: Path, registry: ScriptedRegistry) -> None:
    """The new file isn't immutable. Where the old one can't be removed, the error says what to type."""
    need("chattr")
    with disk(place) as mounted:
        directory = mounted.path / "dir"
        push(registry, OLD)
        options: dict[str, Any] = {"env": clean_environment(), "cache": place / "cache"}
        provision(f"{registry.host}/image", directory, "--platform=linux/amd64", **options, status=0)
        push(registry, NEW)
        target = directory / "rootfs/opt/immutable"
        target.parent.mkdir()
        target.write_bytes(b"mine")
        run("chattr", "+i", target)
        done = provision("update", directory, "--yes", "--no-keep", **options, status=7)
        staging = directory.with_name(".dir.provision")
        assert f"chattr -R -i {staging}" in done.stderr
        assert target.read_bytes() == b"mine"
        target.write_bytes(b"mine again")
        assert (directory / "rootfs/usr/lib/changed").read_bytes() == b"changed 2"
        subprocess.run(["chattr", "-R", "-i", staging], check=False, capture_output=True)  # it complains of symlinks
        provision("update", directory, "--yes", "--no-keep", **options, status=0)
        assert {*os.listdir(mounted.path)} - {"lost+found"} == {"dir"}


def test_the_plan_names_all_that_has_no_place(directory: Path, registry: ScriptedRegistry) -> None:
    """A directory that is a file in the new image; one that the user has replaced; and a mode of what is deleted."""
    push(
        registry, [*(m for m in NEW if "usr/names" not in str(m) and "usr/lib/same" not in str(m)), ("usr/names", b"")]
    )
    by_user(
        """
        cd "$1"; mkdir usr/names/mine; echo 1 >usr/names/mine/new; chmod 600 usr/lib/same
        mv etc opt-etc; ln -s opt-etc etc
        """,
        directory / "rootfs",
    )
    planned = update(directory, "--dry-run").stdout
    assert "/usr/names/mine/new: the image has something else in its place" in planned
    assert "/usr/lib/same: deleted, as in the image" in planned
    assert "both have changed mode or owner" not in planned
    done = update(directory)
    assert "/usr/names/mine/new: the image has something else in its place" in done.stdout
