"""The digests of files, from when they are written until they are recorded."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.filesystem.kind import Kind
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.digests import EMPTY, LARGEST, FileDigests, SparseHasher, hash_file
from provisioner.ownership.mtree import MtreeEntry, parse_entries
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners
from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.archives import Member, hard, pax, raw, special, tar
from tests.support.tools import memory_taken

Unpack = Callable[[Tree, list[bytes], Path], None]
USER = Ownership(exact=False)
INODES = st.integers(0, 200) | st.integers(2**63, 2**63 + 200)
DIGESTS = st.sampled_from([bytes([number]) * 32 for number in range(5)] + [b""])

MILLION = """
digests = FileDigests()
for inode in range(10**6):
    digests.set(inode + 10**7, b"%32d" % inode)
"""


def digest_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@given(st.lists(st.tuples(INODES, DIGESTS)), st.lists(st.tuples(INODES, DIGESTS)))
def test_the_last_digest_counts(here: list[tuple[int, bytes]], there: list[tuple[int, bytes]]) -> None:
    digests, other = FileDigests(), FileDigests()
    for inode, digest in here:
        digests.set(inode, digest)
    for inode, digest in there:
        other.set(inode, digest)
    digests.update(other)
    expected = dict(here) | {inode: digest for inode, digest in dict(there).items() if digest}
    for inode in [*expected, 7, 2**64 - 1]:
        assert digests.get(inode) == (expected.get(inode) or None)


@given(st.integers(0, 9), st.integers(0, 9))
def test_no_image_fills_the_memory(here: int, there: int) -> None:
    """What doesn't fit has no digest, and no wrong one."""
    digests, other = FileDigests(memory_limit=5 * 32), FileDigests()
    for inode in range(here):
        digests.set(inode, b"%32d" % inode)
    for inode in range(100, 100 + there):
        digests.set(inode, b"x" * 32)
        other.set(inode, b"%32d" % inode)
    digests.update(other)
    for inode in range(here):
        assert digests.get(inode) == (b"%32d" % inode if inode < 5 else None)
    for inode in range(100, 100 + there):
        assert digests.get(inode) in (None, b"%32d" % inode)


@pytest.mark.slow
def test_a_million_digests_are_small() -> None:
    assert memory_taken("from provisioner.ownership.digests import FileDigests", MILLION) < 48 * 2**20


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=9)), max_size=5), st.integers(0, 9))
def test_holes_are_zeros(parts: list[tuple[int, bytes]], rest: int) -> None:
    hasher, content = SparseHasher(), b""
    for hole, data in parts:
        content += bytes(hole)
        hasher.update(data, len(content))
        content += data
    assert hasher.digest(len(content) + rest) == digest_of(content + bytes(rest))


def test_a_file_is_hashed_from_its_start(tmp_path: Path) -> None:
    content = os.urandom(700_000)
    with (tmp_path / "file").open("wb+") as file:
        file.write(content)
        file.flush()
        assert hash_file(file.fileno()) == digest_of(content)


def entries_of(data: bytes) -> dict[bytes, MtreeEntry]:
    entries, above = {}, list[bytes]()
    for entry in parse_entries(io.BytesIO(data)):
        if entry is None:
            above.pop()
            continue
        entries[b"/".join([*above[1:], entry.name])] = entry
        if entry.kind is Kind.DIRECTORY:
            above.append(entry.name)
    return entries


def in_order(tree: Tree, layers: list[bytes], scratch: Path) -> None:
    applier = LayerApplier(tree, USER, links=Links())
    for layer in layers:
        applier.apply([layer])
    applier.finish()


def side_by_side(tree: Tree, layers: list[bytes], scratch: Path) -> None:
    merged = apply_apart(tree, [partial(iter, [layer]) for layer in layers], USER, Budget(parts=9), scratch)
    assert all(merged)


def recorded(directory: Path, unpack: Unpack, *layers: bytes, fixup: bytes = b"") -> dict[bytes, MtreeEntry]:
    """Unpack archives, and return the entries of the record by path."""
    (directory / "root").mkdir()
    with Tree(directory / "root") as tree:
        unpack(tree, list(layers), directory / "scratch")
        if fixup:
            tree.write(b"etc/hosts", fixup)
        write_owners(directory, directory / "root", tree.overrides, USER)
    return entries_of((directory / "ownership.mtree").read_bytes())


LARGE = bytes(LARGEST + 1)
LOWER: list[Member] = [
    ("a", b"first"),
    ("over", b"old"),
    ("gone", b"gone"),
    ("empty", b""),
    ("d/b", b"second"),
    hard("d/b2", "d/b"),
    ("link", "a"),
    ("opt/large", LARGE),
    ("etc/large", LARGE),
    ("var/lib/dpkg/status", LARGE),
    special("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
]
UPPER: list[Member] = [
    (".wh.gone", b""),
    ("over", b"takes the inode of gone"),
    ("d/c", b"third"),
    hard("d/a2", "a"),
]


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("unpack", [in_order, side_by_side])
def test_the_record_has_the_digest_of_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpack: Unpack, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.delattr(os, "link")  # as on Termux
    sparse = pax(GNU_sparse_map=b"5,2,9,1", GNU_sparse_size=b"20", GNU_sparse_name=b"sparse")
    layers = [sparse + raw(b"x", content=b"abc") + tar(*LOWER), tar(*UPPER)]
    entries = recorded(tmp_path, unpack, *layers, fixup=b"127.0.0.1 localhost\n")
    assert entries[b"sparse"].digest == digest_of(bytes(5) + b"ab" + bytes(2) + b"c" + bytes(10))
    assert entries[b"empty"].digest == EMPTY
    assert entries[b"opt/large"].digest == b""
    assert entries[b"link"].digest == entries[b"null"].digest == b""
    assert entries.keys() >= {b"d/b2", b"d/a2", b"etc/large", b"var/lib/dpkg/status", b"etc/hosts"}
    files = {path: entry for path, entry in entries.items() if entry.kind is Kind.FILE and path != b"opt/large"}
    assert {path: entry.digest for path, entry in files.items()} == {
        path: digest_of((tmp_path / "root" / os.fsdecode(path)).read_bytes()) for path in files
    }


def test_bytes_are_not_read_from_the_disk_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are hard links and their copies; only files that the image doesn't have."""
    monkeypatch.setattr("provisioner.ownership.record.hash_file", lambda file: b"x" * 32)
    entries = recorded(tmp_path, in_order, tar(*LOWER), tar(*UPPER), fixup=b"text")
    assert [path for path, entry in entries.items() if entry.digest == b"x" * 32] == [b"etc/hosts"]


def test_a_worker_process_hands_its_digests_over(tmp_path: Path) -> None:
    digests = FileDigests()
    digests.set(5, b"x" * 32)
    assert pickle.loads(pickle.dumps(digests)).get(5) == b"x" * 32
