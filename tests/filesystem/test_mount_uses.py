"""Which mounts of all processes concern a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem import mount_uses
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.mount_uses import MountUse, find_mount_uses


def mountinfo(*mounts: str) -> str:
    """The lines of a disk at /, mount 1, and of mounts on it."""
    lines = ["1 0 8:1 / / rw - ext4 disk rw"]
    lines += [f"{number} 1 0:9 / {point} rw - tmpfs none rw" for number, point in enumerate(mounts, 2)]
    return "\n".join(lines) + "\n"


def test_this_process_s_mounts_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process sees them too, behind other ones."""
    directory, proc = tmp_path / "directory", tmp_path / "proc"
    directory.mkdir()
    with closing_descriptor(os.open(directory, DIRECTORY)) as opened:
        for number, points in {"self": ["mine"], "7": ["its", "mine\ra", "mine"], "8": ["mine", "last"]}.items():
            (proc / number).mkdir(parents=True)
            (proc / number / "mountinfo").write_text(mountinfo(*(f"{directory}/{point}" for point in points)))
        monkeypatch.setattr(mount_uses, "mount_number", lambda _: b"1")
        monkeypatch.setattr(mount_uses, "_PROC", proc)
        expected = [(0, "mine"), (7, "its"), (7, "mine\ra"), (8, "last")]
        assert find_mount_uses(opened) == [MountUse(pid, f"{directory}/{point}", False) for pid, point in expected]
