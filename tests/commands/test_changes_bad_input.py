"""diff, update and repair of directories that are not as they should be, and on machines that fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.archives import Member
from tests.support.disks import FAILURES, disk, tmpfs
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need, need_root, provision, run
from tests.support.trees import tree_of

OLD: list[Member] = [("bin/tool", b"tool 1"), ("etc/conf", b"conf 1"), ("usr/lib/a", b"a 1"), ("home/x", b"x")]
NEW: list[Member] = [("bin/tool", b"tool 2"), ("etc/conf", b"conf 2"), ("usr/lib/a", b"a 2"), ("home/x", b"x")]
COMMANDS = {"diff": [], "repair": ["--yes", "--all"], "update": ["--yes", "--no-keep"]}


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        yield running


def push(registry: ScriptedRegistry, members: list[Member]) -> None:
    registry.push("image", builders.image(builders.layer(*members)))


def make(registry: ScriptedRegistry, directory: Path, **options: Any) -> Path:
    """A directory of the old image; the registry has the new one."""
    push(registry, OLD)
    provision(f"{registry.host}/image", directory, "--platform=linux/amd64", **options, status=0)
    push(registry, NEW)
    return directory


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return make(registry, tmp_path / "place/dir")


def call(command: str, directory: Path, status: int, **options: Any) -> subprocess.CompletedProcess[str]:
    done = provision(command, directory, *COMMANDS[command], **options, status=status)
    if status not in (0, 6):
        lines = done.stderr.splitlines()
        assert lines[-2].startswith("provision: "), lines
        assert lines[-1].startswith("  "), lines
    return done


RECORDS: dict[str, tuple[Callable[[bytes], bytes] | None, int, str]] = {
    "missing": (None, 7, "has no ownership record"),
    "empty": (lambda text: b"", 7, "record is damaged"),
    "no record": (lambda text: b"\x7fELF\0\xff" * 1000, 7, "record is damaged"),
    "cut short": (lambda text: text[: len(text) // 2], 7, "record is damaged"),
    "a path outside": (lambda text: text.replace(b"\nbin ", b"\n.. "), 7, "record is damaged"),
    "a slash": (lambda text: text.replace(b"\ntool ", b"\na\\057b "), 7, "record is damaged"),
    "a NUL": (lambda text: text.replace(b"\ntool ", b"\na\\000b "), 7, "record is damaged"),
    "a number": (lambda text: text.replace(b"size=6", b"size=x"), 7, "record is damaged"),
}


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
def test_a_record_that_is_no_file(directory: Path, kind: Callable[[Path], None]) -> None:
    """Nobody waits for what will never be written."""
    record, new = directory / ".provision/ownership.mtree", directory.parent / "new"
    record.unlink()
    kind(record)
    commands: tuple[tuple[str | Path, ...], ...] = (("diff",), ("repair",), ("update",), ("backup", new), ("copy", new))
    for command, *words in (*commands, ("export", new), ("export", "--format=oci-archive", new)):
        operands = [*words[:-1], directory, *words[-1:]]
        done = provision(command, *operands, status=7)
        assert "the ownership record is damaged" in done.stderr
    assert os.listdir(directory.parent) == ["dir"]


def test_what_has_no_rootfs_is_not_moved(directory: Path) -> None:
    shutil.rmtree(directory / "rootfs")
    done = provision("move", directory, directory.with_name("new"), status=7)
    assert f"move {directory}: look at its rootfs: No such file" in done.stderr
    assert os.listdir(directory.parent) == ["dir"]


@pytest.mark.parametrize("fault", RECORDS)
def test_a_record_that_can_not_be_read(directory: Path, fault: str) -> None:
    record = directory / ".provision/ownership.mtree"
    change, status, message = RECORDS[fault]
    content = record.read_bytes()
    record.unlink()
    if change is not None:
        record.write_bytes(change(content))
        assert record.read_bytes() != content
    before = tree_of(directory)
    for command in COMMANDS:
        assert message in call(command, directory, status).stderr
        assert tree_of(directory) == before
        assert os.listdir(directory.parent) == ["dir"]


LIES: dict[str, Callable[[bytes], bytes]] = {
    "types": lambda text: text.replace(b"\ntool type=file", b"\ntool type=fifo"),
    "digests": lambda text: re.sub(rb"sha256digest=\w{64}", b"sha256digest=" + b"0" * 64, text),
    "sizes": lambda text: text.replace(b"size=6", b"size=9223372036854775807"),
    "owners": lambda text: text.replace(b"uid=0", b"uid=4294967294"),
    "modes": lambda text: text.replace(b"mode=0644", b"mode=7777"),
    "time": lambda text: re.sub(rb"written=\d+", b"written=999999999999", text),
    "order": lambda text: text.replace(b"\nbin ", b"\nzzz "),
    "a file as a directory": lambda text: re.sub(
        rb"\n(tool) type=file ([^\n]*?) size=\S+ sha\S+\n", rb"\n\1 type=dir \2\n..\n", text
    ),
    "all is new": lambda text: re.sub(rb"\n\S+ type=file [^\n]*", b"", text),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_record_that_lies(directory: Path, lie: str, tmp_path: Path) -> None:
    """Whatever is done is done in the directory, and the user's files are there."""
    (directory / "rootfs/home/mine").write_bytes(b"mine")
    (directory / "rootfs/usr/lib/out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/canary").write_bytes(b"alive")
    record = directory / ".provision/ownership.mtree"
    content = LIES[lie](record.read_bytes())
    assert record.read_bytes() != content
    for command in COMMANDS:
        record.write_bytes(content)
        done = provision(command, directory, *COMMANDS[command])
        assert done.returncode in (0, 6, 7), done.stderr
        assert (directory / "rootfs/home/mine").read_bytes() == b"mine"
        assert tree_of(tmp_path / "outside").keys() == {".", "canary"}
        assert (tmp_path / "outside/canary").read_bytes() == b"alive"
        assert os.listdir(directory.parent) == ["dir"]


@pytest.mark.parametrize("command", ["update", "repair"])
def test_the_directory_of_another_user(place: Path, registry: ScriptedRegistry, command: str) -> None:
    """Root is told to do it as that user."""
    need_root()
    directory = make(registry, place / "dir", **as_user())
    (directory / "rootfs/bin/tool").unlink()
    before = tree_of(directory)
    done = provision(command, directory, *COMMANDS[command])
    if command == "update":
        assert done.returncode == 8
        assert "update it as that user" in done.stderr
        assert tree_of(directory) == before
    else:  # what is put back belongs to the user
        assert done.returncode == 0, done.stderr
        owner = directory.stat().st_uid
        assert {path.lstat().st_uid for path in directory.rglob("*")} == {owner}


def test_the_directory_of_root(place: Path, registry: ScriptedRegistry) -> None:
    """It is closed to others, whom no other directory helps."""
    need_root()
    directory, new = make(registry, place / "dir"), place / "new"
    for command, *words in (("diff",), ("repair",), ("update",), ("backup", new), ("copy", new), ("remove",)):
        done = provision(command, directory, *words, **as_user(), status=7)
        hint = "it is another user's: be that user, or root"
        assert done.stderr.endswith(f"look at {directory}: Permission denied\n  {hint}\n"), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_that_a_symlink_leads_to(directory: Path, command: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    (directory / "rootfs/usr/lib/a").unlink()
    call(command, link, 0)
    assert os.readlink(link) == str(directory)
    assert sorted(os.listdir(directory.parent)) == ["dir"]
    assert (directory / "rootfs/bin/tool").read_bytes() == (b"tool 2" if command == "update" else b"tool 1")
    assert (directory / "rootfs/usr/lib/a").exists() == (command == "repair")


def test_a_directory_in_a_directory(directory: Path, registry: ScriptedRegistry) -> None:
    """The inner one is a part of the outer one's files, and stays as it is; or is updated alone."""
    inner = directory / "rootfs/home/inner"
    shutil.move(make(registry, directory.with_name("inner")), inner)  # none is made there
    (inner / "rootfs/home/mine").write_bytes(b"mine")
    before = tree_of(inner)
    call("update", directory, 0)
    assert tree_of(inner).keys() == before.keys()
    assert (inner / "rootfs/bin/tool").read_bytes() == b"tool 1"
    assert (directory / "rootfs/bin/tool").read_bytes() == b"tool 2"
    call("update", inner, 0)
    assert (inner / "rootfs/bin/tool").read_bytes() == b"tool 2"
    assert (inner / "rootfs/home/mine").read_bytes() == b"mine"
    assert "A /home/inner/rootfs/home/mine" in call("diff", directory, 0).stdout.splitlines()


@pytest.mark.parametrize("command", ["update", "repair"])
def test_a_disk_that_becomes_full(tmp_path: Path, registry: ScriptedRegistry, command: str) -> None:
    """After the free space was looked at, since the layers are compressed well."""
    point = tmp_path / "small"
    with tmpfs(point, "size=24m"):
        zeros: list[Member] = [("usr/zeros", bytes(14 << 20))]
        push(registry, [*OLD, *(zeros if command == "repair" else [])])
        options: dict[str, Any] = {"env": clean_environment(), "cache": tmp_path / "cache"}
        provision(f"{registry.host}/image", point / "dir", "--platform=linux/amd64", **options, status=0)
        (point / "dir/rootfs/bin/tool").write_bytes(b"mine")
        push(registry, [*NEW, *(zeros if command == "repair" else [("usr/zeros", bytes(30 << 20))])])
        if command == "repair":
            push(registry, [*OLD, *zeros])
            (point / "dir/rootfs/home/large").write_bytes(bytes(8 << 20))
        before = tree_of(point / "dir")
        done = provision(command, point / "dir", *COMMANDS[command], **options, status=7)
        assert "bytes that are allowed" in done.stderr
        assert "--max-size 100G" in done.stderr
        assert tree_of(point / "dir") == before
        done = provision(command, point / "dir", *COMMANDS[command], "--max-size=1G", **options, status=7)
        assert "No space left" in done.stderr
        assert "df -h" in done.stderr
        assert tree_of(point / "dir") == before
        assert staging_below(point) == []


def test_a_disk_that_can_only_be_read(directory: Path) -> None:
    """What is done is named, with what helps; and what only reads goes on."""
    need_root()
    (directory / "rootfs/bin/tool").unlink()
    (directory / "rootfs/home/closed").mkdir(mode=0)
    before = tree_of(directory)
    new, archive = directory.parent.parent / "new", directory.parent.parent / "b.tar"
    run("mount", "--bind", "-o", "ro", directory.parent, directory.parent)
    try:
        for command, *words in (("remove", "--yes"), ("move", new), ("repair", "--yes"), ("update", "--yes")):
            operands = [directory, *words] if command == "move" else [*words, directory]
            done = provision(command, *operands, status=7)
            what = "replace" if command == "update" else command
            assert f"{what} {directory}: Read-only file system\n  the file system has to be" in done.stderr
            assert tree_of(directory) == before
        done = provision("config", "--set", "hostname=x", directory)
        assert f"change the settings of {directory}: Read-only" in done.stderr
        reading: list[tuple[str | Path, ...]]
        reading = [("diff", directory), ("repair", "--check", directory)]
        reading += [("backup", directory, archive), ("copy", directory, new)]
        for line in reading:
            done = provision(*line)
            assert done.returncode == (6 if "--check" in line else 0), done.stderr
    finally:
        run("umount", directory.parent)


def test_a_subvolume_in_it(place: Path, registry: ScriptedRegistry) -> None:
    """Its files are not those of the directory's file system. It is refused before anything is lost."""
    need("btrfs")
    with disk(place, "btrfs") as mounted:
        directory = make(registry, mounted.path / "dir", cache=place / "cache")
        run("btrfs", "subvolume", "create", directory / "rootfs/home/sub")
        (directory / "rootfs/home/sub/mine").write_bytes(b"mine")
        before = tree_of(directory)
        done = call("update", directory, 7, cache=place / "cache")
        assert "/home/sub" in done.stderr
        assert "subvolume" in done.stderr
        assert tree_of(directory) == before
        assert os.listdir(mounted.path) == ["dir"]
        assert call("diff", directory, 0).stdout.splitlines() == ["C /home", "A /home/sub"]


def test_a_disk_that_fails(place: Path, registry: ScriptedRegistry) -> None:
    """It takes what is written, and loses it: that is known when the new directory is on the disk, or not."""
    with disk(place, "ext2", "24m") as mounted:
        options: dict[str, Any] = {"env": clean_environment(), "cache": place / "cache"}
        directory = make(registry, mounted.path / "dir", **options)
        (directory / "rootfs/etc/conf").write_bytes(b"mine")
        before = tree_of(directory)
        push(registry, [*NEW, ("usr/large", os.urandom(40 << 20))])
        done = provision("update", directory, *COMMANDS["update"], **options, status=7)
        assert any(failure in done.stderr for failure in FAILURES)
        assert {path: entry.sha256 for path, entry in tree_of(directory).items()} == {
            path: entry.sha256 for path, entry in before.items()
        }


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_directories(directory: Path, command: str, tmp_path: Path) -> None:
    """A guest may have replaced all that is in rootfs by links out of it."""
    outside = tmp_path / "outside"
    (outside / "lib").mkdir(parents=True)
    for name in ("passwd", "conf", "tool", "lib/a", "mine"):
        (outside / name).write_bytes(b"of the host")
    rootfs = directory / "rootfs"
    for name in ("bin", "etc", "usr"):
        shutil.rmtree(rootfs / name)
        (rootfs / name).symlink_to(outside)
    (rootfs / "home/x").unlink()
    (rootfs / "home/x").symlink_to(outside / "mine")
    before = tree_of(outside)
    done = provision(command, directory, *COMMANDS[command])
    assert done.returncode in (0, 6), done.stderr
    assert tree_of(outside) == before
    assert os.listdir(directory.parent) == ["dir"]


@pytest.mark.parametrize("command", ["diff", "update", "repair"])
@pytest.mark.parametrize("name", ["rootfs", ".provision", ".provision/ownership.mtree", ".provision/record.json"])
def test_parts_that_are_links(directory: Path, command: str, name: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (directory / name).rename(moved)
    (directory / name).symlink_to(moved)
    before = tree_of(moved) if moved.is_dir() else moved.read_bytes()
    done = provision(command, directory, *COMMANDS[command])
    assert done.returncode in (3, 7, 8), done.stderr
    assert (tree_of(moved) if moved.is_dir() else moved.read_bytes()) == before
