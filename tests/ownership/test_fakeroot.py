"""Lines for `fakeroot -i`. Whole trees: test_record.py."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from provisioner.filesystem.kind import Kind
from provisioner.ownership.fakeroot import state_line
from provisioner.ownership.mtree import MtreeEntry
from tests.support.tools import need, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch(0o600)
    return path


@pytest.mark.slow
def test_fakeroot_writes_the_same(file: Path, tmp_path: Path) -> None:
    """The state that the real fakeroot saves has the same lines as ours."""
    need("fakeroot")
    saved = tmp_path / "saved"
    (file.with_name("link")).symlink_to("x")
    script = 'cd "$1" && chown 5:6 file && chmod 4751 file && chown -h 7:8 link && mknod dev b 8 300 && chmod 660 dev'
    run("fakeroot", "-s", saved, "--", "sh", "-c", script, "sh", file.parent)
    ours = [
        state_line(MtreeEntry(b"file", Kind.FILE, 0o4751, 5, 6), file.lstat()),
        state_line(MtreeEntry(b"link", Kind.SYMLINK, 0o777, 7, 8), file.with_name("link").lstat()),
        state_line(MtreeEntry(b"dev", Kind.BLOCK, 0o660, 0, 0, (8, 300)), file.with_name("dev").lstat()),
    ]
    assert sorted(saved.read_bytes().splitlines(True)) == sorted(ours)


@pytest.mark.parametrize(
    ("entry", "has_line"),
    [
        (MtreeEntry(b"x", Kind.FILE, 0o644, 0, 0), False),
        (MtreeEntry(b"x", Kind.FILE, 0o4755, 0, 0), False),
        (MtreeEntry(b"x", Kind.DIRECTORY, 0o700, 0, 0), False),
        (MtreeEntry(b"x", Kind.SYMLINK, 0o777, 0, 0), False),
        (MtreeEntry(b"x", Kind.FIFO, 0o600, 0, 0), False),
        (MtreeEntry(b"x", Kind.FILE, 0o444, 0, 0), True),
        (MtreeEntry(b"x", Kind.FILE, 0o000, 0, 0), True),
        (MtreeEntry(b"x", Kind.DIRECTORY, 0o555, 0, 0), True),
        (MtreeEntry(b"x", Kind.FILE, 0o644, 1, 0), True),
        (MtreeEntry(b"x", Kind.SYMLINK, 0o777, 0, 1), True),
        (MtreeEntry(b"x", Kind.CHARACTER, 0o666, 0, 0, (1, 3)), True),
    ],
)
def test_only_what_fakeroot_would_not_show_by_itself_has_a_line(entry: MtreeEntry, has_line: bool, file: Path) -> None:
    assert bool(state_line(entry, file.lstat())) == has_line


def test_numbers_may_be_large(file: Path) -> None:
    state = os.stat_result((stat.S_IFREG, 2**64 - 1, 2**33, 2, 0, 0, 0, 0, 0, 0))
    text = state_line(MtreeEntry(b"x", Kind.CHARACTER, 0o7777, 2**32 - 2, 2**32 - 2, (4095, 2**20 - 1)), state)
    assert re.fullmatch(
        rb"dev=200000000,ino=18446744073709551615,mode=27777,uid=4294967294,gid=4294967294,nlink=2,rdev=\d+\n", text
    )
