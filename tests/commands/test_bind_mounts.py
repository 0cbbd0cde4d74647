"""Bind mounts below the rootfs: their files are the host's, which no command reads or changes as the container's.

They are on the same file system, so that no device number tells them from the container's files.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.provisioned import image, served
from tests.support.tools import need, need_root, provision, run
from tests.support.trees import Entry, tree_of

SECRET = b"the host's secret"
MOUNTED = ("usr/share", "mnt", "etc/os-release")
"""A directory of the image, one of the user, and a file of the image."""


def done(*words: str | Path, status: int = 0, **options: Any) -> str:
    ended = provision(*words, **options, status=status)
    return ended.stdout + ended.stderr


@pytest.fixture
def source(place: Path) -> Iterator[Path]:
    """A container with bind mounts of `host`, beside it."""
    need_root()
    need("mount", "umount")
    made = image(("usr/share", None), ("usr/share/doc", b"doc"))
    directory, host = place / "source", place / "host"
    (host / "share").mkdir(parents=True)
    (host / "mnt").mkdir()
    for name in ("share/doc", "mnt/file", "release"):
        (host / name).write_bytes(SECRET)
        (host / name).chmod(0o600)
        os.chown(host / name, 1234, 1234)
    with ExitStack() as stack:
        reference = stack.enter_context(served(made))
        done(reference, directory, "--platform=linux/amd64")
        (directory / "rootfs/mnt").mkdir()
        for name, point in zip(("share", "mnt", "release"), MOUNTED, strict=True):
            run("mount", "--bind", host / name, directory / "rootfs" / point)
            stack.callback(run, "umount", directory / "rootfs" / point)
        yield directory


def tar_names(archive: Path, secret: bytes = SECRET) -> set[str]:
    """The names in an archive, none of whose files has the secret."""
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isreg() else None
            assert file is None or secret not in file.read()
        return set(opened.getnames())


def test_repair_changes_no_file_of_the_host(source: Path, place: Path) -> None:
    before: dict[str, Entry] = tree_of(place / "host")
    (source / "rootfs/usr/one").chmod(0o600)
    message = done("repair", "--yes", source, status=8)
    assert f"can't repair {source}: something is mounted at {source}/rootfs/" in message
    assert "umount" in message
    assert tree_of(place / "host") == before
    assert (source / "rootfs/usr/one").stat().st_mode & 0o777 == 0o600
    shown = done("repair", "--check", source, status=6)
    assert not any(f"/{point}" in shown for point in MOUNTED)


def test_no_copy_has_files_of_the_host(source: Path, place: Path) -> None:
    message = done("copy", source, place / "new")
    for point in MOUNTED:
        assert f"something is mounted at rootfs/{point}, and was left out" in message
    assert not any(SECRET in file.read_bytes() for file in (place / "new").rglob("*") if file.is_file())
    assert os.listdir(place / "new/rootfs/mnt") == os.listdir(place / "new/rootfs/usr/share") == []


@pytest.mark.parametrize(
    "words",
    [("backup",), ("export",), ("export", "--format=oci-archive"), ("export", "--format=oci-archive", "--squash")],
    ids=" ".join,
)
def test_no_archive_has_files_of_the_host(source: Path, place: Path, words: tuple[str, ...]) -> None:
    message = done(words[0], source, place / "archive.tar", *words[1:])
    if "--format=oci-archive" in words:
        with tarfile.open(place / "archive.tar") as opened:
            opened.extractall(place / "layout")
        names = set[str]()
        for blob in (place / "layout/blobs/sha256").iterdir():
            if tarfile.is_tarfile(blob):
                names |= tar_names(blob)
    else:
        names = tar_names(place / "archive.tar")
        assert "mounted there: " in message
    assert not any(name.endswith(("mnt/file", ".wh.os-release", ".wh.doc")) for name in names)


def test_diff_does_not_look_at_what_is_mounted(source: Path) -> None:
    assert done("diff", source).splitlines() == ["A /mnt"]
    (source / "rootfs/usr/added").touch()
    assert done("diff", source).splitlines() == ["A /mnt", "C /usr", "A /usr/added"]


def test_fakeroot_is_told_nothing_of_what_is_mounted(source: Path, place: Path) -> None:
    done("owners", source)
    state = (source / ".provision/fakeroot.state").read_text()
    assert "ino=" in state
    assert not any(f"ino={path.stat().st_ino}," in state for path in (place / "host").rglob("*"))
