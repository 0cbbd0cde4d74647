"""Archives of other tools are unpacked as those tools do it, and layers as umoci does it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.archives.tar import Archive, Entry
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support import builders
from tests.support.apart import apply_apart
from tests.support.archives import Member, special, tar
from tests.support.tools import fast_directory, need, need_root, run, unavailable
from tests.support.trees import Entry as Found
from tests.support.trees import set_times, tree_of

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
OPTIONS: dict[str, Any] = {"env": {**os.environ, "LC_ALL": "C.UTF-8"}, "errors": "replace"}


class Node(NamedTuple):
    """What a generated tree has at a path: a letter as in `find -type`, or `h` for a second name of another file."""

    kind: str
    mode: int
    mtime: int  # nanoseconds
    content: bytes  # of a file, or a symlink's target
    hole: int  # bytes in front of the content that were never written


def names(longest: int) -> st.SearchStrategy[bytes]:
    odd = st.binary(min_size=1, max_size=longest).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"%"))
    long = st.integers(1, longest).map(lambda length: b"n" * length)
    return (odd | long | st.sampled_from([b"a", b"b", b" ", b"a\nb", "é".encode()])).filter(
        lambda name: name not in (b".", b"..") and not name.startswith(b".wh.")
    )


def trees(longest: int, target: int, kinds: str, latest: int) -> st.SearchStrategy[dict[bytes, Node]]:
    node = st.builds(
        Node,
        st.sampled_from(kinds),
        st.integers(0, 0o7777),
        st.integers(10**9, latest * 10**9),  # tarfile writes less with an exponent, which pax doesn't know
        st.binary(max_size=600) | st.integers(0, 3000).map(lambda size: b"c" * size),
        st.sampled_from([0, 0, 1, 1 << 16, 1 << 20]),
    )
    paths = st.lists(names(longest), min_size=1, max_size=3).map(b"/".join)
    return st.dictionaries(paths, node, max_size=8).map(
        lambda tree: {path: node._replace(content=_target(node, target)) for path, node in tree.items()}
    )


def _target(node: Node, longest: int) -> bytes:
    """The content of a file, or what may be the target of a symlink."""
    return node.content if node.kind != "l" else node.content[:longest].replace(b"\0", b"0") or b"t"


SHORT = (28, 90, "ffdlh", 2**31)
"""The limits of v7 and ustar: the longest name and target, kinds, the latest time."""
LONG = (250, 1000, "ffdlhp", 2**33)
WRITERS = {
    "GNU tar, v7": (["tar", "--format=v7"], SHORT),
    "GNU tar, ustar": (["tar", "--format=ustar"], SHORT),
    "GNU tar, oldgnu": (["tar", "--format=oldgnu", "--sparse"], LONG),
    "GNU tar, gnu": (["tar", "--format=gnu", "--sparse"], LONG),
    "GNU tar, pax": (["tar", "--format=pax", "--sparse"], LONG),
    "GNU tar, pax 0.1": (["tar", "--format=pax", "--sparse", "--sparse-version=0.1"], LONG),
    "GNU tar, pax 0.0": (["tar", "--format=pax", "--sparse", "--sparse-version=0.0"], LONG),
    "bsdtar, v7": (["bsdtar", "--format=v7tar"], SHORT),
    "bsdtar, ustar": (["bsdtar", "--format=ustar"], SHORT),
    "bsdtar, gnutar": (["bsdtar", "--format=gnutar"], LONG),
    "bsdtar, pax": (["bsdtar", "--format=pax"], LONG),
    "busybox tar": (["busybox", "tar"], LONG),
    "tarfile, ustar": ([str(tarfile.USTAR_FORMAT)], SHORT),
    "tarfile, gnu": ([str(tarfile.GNU_FORMAT)], LONG),
    "tarfile, pax": ([str(tarfile.PAX_FORMAT)], LONG),
}


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        yield Path(name)


def make(tree: dict[bytes, Node], root: Path) -> None:
    """Make a generated tree; what doesn't fit into it is left out."""
    root.mkdir()
    files: list[bytes] = []
    created: dict[bytes, Node] = {}
    for name, node in tree.items():
        path = os.path.join(os.fsencode(root.resolve()), name)
        if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            continue  # below a symlink
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if node.kind == "d":
                os.mkdir(path)
            elif node.kind == "l":
                os.symlink(node.content, path)
            elif node.kind == "p":
                os.mkfifo(path)
            elif node.kind == "h" and files:
                os.link(files[0], path)
            else:
                with open(path, "xb") as file:
                    file.truncate(node.hole)
                    file.seek(node.hole)
                    file.write(node.content)
                files.append(path)
        except (FileExistsError, NotADirectoryError):
            continue
        created[path] = node
    for path, node in reversed(created.items()):
        if node.kind != "l":
            os.chmod(path, node.mode | 0o700)
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


def write(command: list[str], archive: Path, root: Path) -> None:
    """Make an archive of a tree with one of the tools."""
    if command[0].isdigit():
        with tarfile.open(archive, "w", format=int(command[0])) as opened:
            opened.add(root, ".")
    else:
        need(command[0])
        run(*command, "-cf", archive, "-C", root, ".", **OPTIONS)


def _is_text(tree: dict[bytes, Node]) -> bool:
    """Whether all names and targets are UTF-8: bsdtar refuses others in pax headers."""
    try:
        for path, node in tree.items():
            (path + (node.content if node.kind == "l" else b"")).decode()
    except UnicodeDecodeError:
        return False
    return True


def unpacked(archive: bytes, root: Path) -> dict[str, Found]:
    root.mkdir()
    with Tree(root) as tree:
        applier = LayerApplier(tree, Ownership(os.geteuid() == 0))
        applier.apply(archive[at : at + 5000] for at in range(0, len(archive), 5000))
        applier.finish()
        set_times(tree)
    return tree_of(root)


@pytest.mark.parametrize("writer", WRITERS)
@FEW
@given(data=st.data())
@pytest.mark.slow
def test_trees_are_what_the_tools_make_of_them(writer: str, data: st.DataObject) -> None:
    need("tar", "bsdtar")
    command, limits = WRITERS[writer]
    tree = data.draw(trees(*limits))
    if writer == "bsdtar, pax" and not _is_text(tree):
        # It cuts the long name of a sparse file where it isn't UTF-8, and then finds no hard link's target.
        tree = {path: node._replace(hole=0) for path, node in tree.items()}
    with place() as directory:
        archive = directory / "archive.tar"
        make(tree, directory / "source")
        write(command, archive, directory / "source")
        ours = unpacked(archive.read_bytes(), directory / "ours")
        for reader in (
            ("tar --delay-directory-restore", "bsdtar") if _is_text(tree) else ("tar --delay-directory-restore",)
        ):
            (directory / reader).mkdir()
            run(*reader.split(), "-xpf", archive, "--numeric-owner", "-C", directory / reader, **OPTIONS)
            theirs = tree_of(directory / reader)
            theirs["."] = replace(theirs["."], mtime=ours["."].mtime)  # which bsdtar leaves
            assert ours == theirs, reader
        if command[0] == "bsdtar" and not _is_text(tree):
            return  # it cuts such names, if they are long, to something else
        kept = tree_of(directory / "source")
        assert {path: (found.type, found.sha256, found.target) for path, found in ours.items()} == {
            path: (found.type, found.sha256, found.target) for path, found in kept.items()
        }


@pytest.mark.parametrize("dialect", ["oldgnu", "gnu", "pax"])
def test_large_numbers_of_gnu_tar(tmp_path: Path, dialect: str) -> None:
    need("tar")
    (tmp_path / "file").touch()
    archive = tmp_path / "x.tar"
    for owner, seconds in ((4_000_000_000, -5), (2_097_152, 9_000_000_000)):
        options = [f"--format={dialect}", f"--owner=n:{owner}", f"--group=n:{owner - 1}", f"--mtime=@{seconds}"]
        run("tar", *options, "-cf", archive, "-C", tmp_path, "file")
        [entry] = entries(archive)
        assert (entry.uid, entry.gid, entry.mtime) == (owner, owner - 1, seconds * 10**9)


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_attributes_of_files(tmp_path: Path, tool: str) -> None:
    need(tool)
    (tmp_path / "file").touch()
    try:
        os.setxattr(tmp_path / "file", "user.key", b"a\0\xff\n=")
    except (OSError, AttributeError):
        unavailable("this file system has no user attributes")
    run(tool, "--format=pax", "--xattrs", "-cf", tmp_path / "x.tar", "-C", tmp_path, "file")
    [entry] = entries(tmp_path / "x.tar")
    assert dict(entry.xattrs)[b"user.key"] == b"a\0\xff\n="


def test_the_fraction_of_a_time_is_kept(tmp_path: Path) -> None:
    need("tar")
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", ns=(0, 1_700_000_000_123_456_789))
    run("tar", "--format=pax", "-cf", tmp_path / "x.tar", "-C", tmp_path, "file")
    assert [entry.mtime for entry in entries(tmp_path / "x.tar")] == [1_700_000_000_123_456_789]


def entries(archive: Path) -> list[Entry]:
    return list(Archive([archive.read_bytes()]))


# Layers and umoci

TOPS, LEAVES, TO = ("a", "b", "c"), ("x", "y", "z"), ("x", "../a")
Layer = dict[str, tarfile.TarInfo]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer by path: files, directories, symlinks, and whiteouts of what it doesn't have itself."""
    path = st.lists(st.sampled_from(TOPS), max_size=2).map("/".join)
    kinds = [(tarfile.REGTYPE, ""), (tarfile.REGTYPE, ""), (tarfile.DIRTYPE, ""), *((tarfile.SYMTYPE, to) for to in TO)]
    numbers = st.tuples(st.sampled_from([0o755, 0o600, 0o4711]), st.sampled_from([0, 7]), st.integers(1, 10**9))
    leaf = st.tuples(st.sampled_from(kinds), numbers)
    layer: Layer = {}
    for directory, leaf_name, (what, fields) in draw(
        st.lists(st.tuples(path, st.sampled_from(LEAVES), leaf), max_size=6)
    ):
        mode, owner, mtime = fields
        name = f"{directory}/{leaf_name}".lstrip("/")
        layer[name] = special(name, *what, mode=mode, uid=owner, gid=2 * owner, mtime=mtime)
    above = {str(parent) for name in layer for parent in Path(name).parents}
    for directory, name in draw(st.lists(st.tuples(path, st.sampled_from((*TOPS, *LEAVES))), max_size=3)):
        hidden = f"{directory}/{name}".lstrip("/")
        if hidden not in layer and hidden not in above:
            whiteout = f"{directory}/.wh.{name}".lstrip("/")
            layer[whiteout] = special(whiteout, tarfile.REGTYPE)
    for directory in draw(st.lists(path, max_size=2)):
        opaque = f"{directory}/.wh..wh..opq".lstrip("/")
        layer[opaque] = special(opaque, tarfile.REGTYPE)
    return dict(draw(st.permutations(list(layer.items()))))


def layout(image: builders.Image, directory: Path) -> None:
    """An OCI image layout of one image, with the tag `latest`."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    for blob in (*image.blobs, image.manifest):
        (blobs / builders.digest_of(blob).removeprefix("sha256:")).write_bytes(blob)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = builders.descriptor(image.manifest, builders.OCI_MANIFEST)
    named["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


@settings(FEW, max_examples=30)
@given(image=st.lists(layers(), min_size=2, max_size=4))
@pytest.mark.slow
def test_layers_give_the_same_tree_as_umoci(image: list[Layer]) -> None:
    need("umoci")
    need_root()
    archives: list[list[Member]] = [list(layer.values()) for layer in image]
    with place() as directory:
        layout(builders.image(*(builders.layer(*members) for members in archives)), directory / "layout")
        run("umoci", "unpack", "--image", f"{directory}/layout:latest", directory / "bundle")
        theirs = tree_of(directory / "bundle/rootfs")
        shutil.rmtree(directory / "bundle")
        for way in ("in order", "apart"):
            ours = _applied([tar(*members) for members in archives], directory / way)
            assert [path for path, _ in _plain(ours)] == [path for path, _ in _plain(theirs)], way
            assert _plain(ours) == _plain(theirs), way


def _applied(archives: list[bytes], directory: Path) -> dict[str, Found]:
    """The tree of layers that root applies in order, or unpacks apart if `directory` is called like that."""
    ownership = Ownership(exact=True)
    directory.mkdir()
    with Tree(directory) as tree:
        if directory.name == "apart":
            budget = Budget(parts=1 + len(archives))
            apply_apart(
                tree,
                [partial(iter, [archive]) for archive in archives],
                ownership,
                budget,
                directory.with_name("scratch"),
            )
            return tree_of(directory)
        applier = LayerApplier(tree, ownership)
        for archive in archives:
            applier.apply([archive])
        applier.finish()
    return tree_of(directory)


def _plain(tree: dict[str, Found]) -> list[tuple[str, Found]]:
    """A tree without what layers don't say of directories above: their times, and the root's mode."""
    return [
        (path, replace(found, mtime=0, mode=0 if path == "." else found.mode) if found.type == "d" else found)
        for path, found in tree.items()
    ]
