from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.ownership.overrides import NO_TIME, FileMetadata, MetadataOverrides
from tests.support.tools import memory_taken

METADATA = st.none() | st.builds(FileMetadata, st.integers(0, 3), st.just(0), st.just(0o644), st.none(), st.just(()))
INODES = st.integers(0, 200) | st.integers(2**63, 2**63 + 200)

MILLION = """
overrides = MetadataOverrides()
for inode in range(10**6):
    overrides.set(inode + 10**7, FileMetadata(inode % 500, 0, 0o444, None, ()))
    overrides.times[inode + 10**7] = inode * 10**9
"""


@given(st.lists(st.tuples(INODES, METADATA)))
def test_the_last_metadata_counts(steps: list[tuple[int, FileMetadata | None]]) -> None:
    overrides, expected = MetadataOverrides(), dict(steps)
    for inode, metadata in steps:
        overrides.set(inode, metadata)
    for inode in [*expected, 7, 2**64 - 1]:
        assert overrides.get(inode) == expected.get(inode)


def test_metadata_of_a_file_without_an_entry_is_removed(tmp_path: Path) -> None:
    overrides = MetadataOverrides()
    file = os.open(tmp_path, os.O_RDONLY)
    try:
        overrides.set(os.fstat(file).st_ino, FileMetadata(1, 1, 0, None, ()))
        overrides.times[os.fstat(file).st_ino] = 0
        overrides.forget(file)
        assert overrides.get(os.fstat(file).st_ino) is None
        assert overrides.times[os.fstat(file).st_ino] == NO_TIME
    finally:
        os.close(file)


def test_no_image_fills_the_memory() -> None:
    """With attributes that differ from file to file. Equal metadata takes no more memory."""
    for xattrs in (((b"user.x", bytes(1000)),), tuple((b"user.%d" % number, b"") for number in range(5))):
        overrides = MetadataOverrides(memory_limit=10_000)
        for inode in range(100):
            overrides.set(inode, FileMetadata(inode % 5, 1, 0, None, xattrs))
        with pytest.raises(MalformedImage, match="too many to be kept"):
            deque(map(overrides.set, range(10), (FileMetadata(owner, 2, 0, None, xattrs) for owner in range(10))))


@pytest.mark.slow
def test_a_million_overrides_are_small() -> None:
    assert (
        memory_taken("from provisioner.ownership.overrides import MetadataOverrides, FileMetadata", MILLION)
        < 24 * 2**20
    )
