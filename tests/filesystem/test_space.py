"""Free space, as a file system reports it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.space import UNLIMITED, FreeSpace, free_space


def test_a_path_and_a_descriptor_say_the_same(tmp_path: Path) -> None:
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        by_descriptor = free_space(opened)
    finally:
        os.close(opened)
    by_path = free_space(tmp_path)
    assert 0 < by_path.size < UNLIMITED
    assert abs(by_path.size - by_descriptor.size) < by_path.size / 10  # other processes write, too
    assert by_path.default_limit == by_path.size * 9 // 10


@pytest.mark.parametrize(
    ("reported", "free"),
    [
        # f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_flag, f_namemax
        ((4096, 512, 100, 50, 20, 10, 5, 3, 0, 255), FreeSpace(20 * 512, 3)),
        ((4096, 4096, 100, 50, 0, 10, 0, 0, 0, 255), FreeSpace(0, 0)),
        ((4096, 4096, 100, 50, 20, 0, 0, 0, 0, 255), FreeSpace(20 * 4096, UNLIMITED)),  # btrfs
        ((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255), FreeSpace(UNLIMITED, UNLIMITED)),
    ],
)
def test_what_is_reported(reported: tuple[int, ...], free: FreeSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda file: os.statvfs_result(reported))
    assert free_space("/") == free
