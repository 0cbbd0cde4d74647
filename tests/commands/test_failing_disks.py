"""A disk that can't read a file any more: each command says which one and ends, and leaves all as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.disks import disk
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, need_root, provision

LOST, MINE = (builders.incompressible(9000, seed) for seed in (1, 2))
IMAGE = builders.image(builders.layer(("etc/os-release", b"ID=tiny\n"), ("usr/lost", LOST), ("usr/other", b"other")))
NEWER = builders.image(builders.layer(("etc/os-release", b"ID=tiny\n"), ("usr/other", b"newer")))
COMMANDS: dict[str, tuple[str, ...]] = {
    "diff": ("diff", "DIR"),
    "backup": ("backup", "DIR", "NEW.tar"),
    "export": ("export", "DIR", "NEW.tar"),
    "image": ("export", "--format=oci-archive", "DIR", "NEW.tar"),
    "squash": ("export", "--format=oci-archive", "--squash", "DIR", "NEW.tar"),
    "push": ("push", "DIR", "HOST/new"),
    "update": ("update", "--yes", "DIR"),
    "copy": ("copy", "DIR", "NEW"),
    "move": ("move", "DIR", "NEW"),
}

COMPARING = ("diff", "image", "push", "update")
"""The commands that compare the files of the image with it. The others meet the user's lost file first."""


@pytest.fixture(scope="module")
def failing(lasting_place: Path) -> Iterator[tuple[Path, ScriptedRegistry]]:
    """A directory on a disk that has lost a file of the image and one of the user's, and a registry."""
    need_root()
    with ScriptedRegistry() as registry, disk(lasting_place, "btrfs") as mounted:
        registry.push("image", IMAGE)
        directory = mounted.path / "dir"
        provision(
            f"{registry.host}/image",
            directory,
            "--platform=linux/amd64",
            cache=lasting_place / "cache",
            status=0,
        )
        lost, mine = directory / "rootfs/usr/lost", directory / "rootfs/etc/mine"
        mine.write_bytes(MINE)
        os.utime(lost)  # so that it has to be read
        for path in (lost, mine):
            mounted.damage(path)
        registry.push("image", NEWER)
        with pytest.raises(OSError, match="Input/output error"):
            lost.read_bytes()
        yield directory, registry


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_a_clear_error_and_nothing_is_half_made(
    failing: tuple[Path, ScriptedRegistry], tmp_path: Path, name: str
) -> None:
    directory, registry = failing
    names = {"DIR": str(directory), "NEW": str(tmp_path / "new"), "NEW.tar": str(tmp_path / "new.tar")}
    words = [names.get(word, word.replace("HOST", registry.host)) for word in COMMANDS[name]]
    done = provision(*words, cache=tmp_path / "cache", status=7)
    message, hint = done.stderr.splitlines()[-2:]
    assert message.startswith("provision: ")
    assert message.endswith(": Input/output error")
    assert ("usr/lost" if name in COMPARING else "etc/mine") in message, message
    assert "dmesg" in hint
    assert done.stdout == ""
    assert not set(os.listdir(tmp_path)) - {"cache"}
    assert staging_below(directory.parent) == staging_below(tmp_path) == []
    assert os.listdir(directory.parent) == ["dir"]
    assert (directory / "rootfs/usr/other").read_bytes() == b"other"
    assert not registry.asked("/v2/new/.*")


def test_repair_puts_back_what_the_disk_has_lost(failing: tuple[Path, ScriptedRegistry], tmp_path: Path) -> None:
    """Last, since the directory is whole then, but for what is the user's."""
    directory, registry = failing
    registry.push("image", IMAGE)
    options: dict[str, Any] = {"cache": tmp_path / "cache", "env": clean_environment()}
    check = provision("repair", "--check", directory, **options)
    assert (check.returncode, check.stdout) == (6, "content: /usr/lost\n"), check.stderr
    provision("repair", "--yes", directory, **options, status=0)
    assert (directory / "rootfs/usr/lost").read_bytes() == LOST
    assert provision("diff", directory, **options).stdout.splitlines() == ["C /etc", "A /etc/mine"]
