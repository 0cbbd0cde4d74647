"""What a file is, by its content."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.sources.detection import Format, Guess, formats_of, guess_content
from provisioner.sources.file_start import peek
from tests.support.archives import Member, tar
from tests.support.builders import incompressible
from tests.support.local_archives import GZIPPED, PLAIN, docker_members, oci_members

ROOTS: dict[str, list[Member]] = {
    "docker export": [(".dockerenv", b""), ("bin", "usr/bin"), ("etc", None)],
    "debootstrap": [("./", None), ("./bin", "usr/bin"), ("./boot", None)],
    "alpine": [("./", None), ("./lib", None), ("./lib/apk", None)],
    "arch": [("root.x86_64", None), ("root.x86_64/etc", None)],
    "incus": [("metadata.yaml", b"{}"), ("rootfs", None), ("rootfs/bin", "usr/bin")],
    "proot-distro": [("installed-rootfs", None), ("installed-rootfs/debian", None)],
    "a document first": [("x.json", b"{}"), ("bin", None)],
    "a directory with documents": [("etc", None), ("manifest.json", b"[]"), ("index.json", b"")],
}
IMAGES: dict[str, list[Member]] = {
    "skopeo": docker_members(PLAIN),
    "oci": oci_members(("", GZIPPED)),
    "dots": [("./", None), ("./blobs", None), ("./blobs/sha256", None)],
    "old docker": [("a" * 64, None), ("a" * 64 + "/VERSION", b"1.0")],
    "kaniko": [("sha256:" + "a" * 64, b"{}")],
    "index first": [("index.json", b"{}"), ("etc", None)],
}
PERHAPS: dict[str, list[Member]] = {
    "a large layer": [("x.tar", incompressible(2 << 20))],
    "a document": [("x.json", b"{}"), ("x", b"")],
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("members", "expected"),
    [(m, Guess.ROOT) for m in ROOTS.values()]
    + [(m, Guess.IMAGES) for m in IMAGES.values()]
    + [(m, Guess.PERHAPS_IMAGES) for m in PERHAPS.values()],
)
def test_first_members_tell(members: list[Member], expected: Guess, compress: object) -> None:
    data = tar(*members) if compress is bytes else gzip.compress(tar(*members))
    assert guess_content(data[: 1 << 20]) is expected


def test_what_does_not_tell() -> None:
    for data in (b"", b"hello", bytes(5000), tar(), tar(("x", b""), ("y", None)), gzip.compress(b"hello")):
        assert guess_content(data) is Guess.NOTHING


@given(st.binary(max_size=3000))
def test_any_bytes_may_come(data: bytes) -> None:
    guess_content(data)
    guess_content(gzip.compress(data))
    guess_content(tar(("x", data))[: len(data)])


def test_a_bomb_is_not_inflated() -> None:
    assert guess_content(gzip.compress(bytes(1 << 28), 1)) is Guess.NOTHING


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        ("oci-layout index.json", (Format.OCI,)),
        ("oci-layout index.json manifest.json", (Format.OCI, Format.DOCKER)),
        ("oci-layout", ()),
        ("index.json", ()),
        ("manifest.json repositories", (Format.DOCKER,)),
        ("repositories", (Format.OLD_DOCKER,)),
        ("version manifest.json", (Format.SKOPEO,)),
        ("version", ()),
        ("etc bin usr", ()),
    ],
)
def test_names_tell_the_format(names: str, formats: tuple[Format, ...]) -> None:
    assert formats_of(names.split()) == formats


def test_a_pipe_is_read_once_and_in_full(tmp_path: Path) -> None:
    data = tar(("x.tar", incompressible(3 << 20)))
    path = tmp_path / "x"
    path.write_bytes(data)
    read, write = os.pipe()
    with open(path, "rb") as source, io.FileIO(read) as pipe:
        if not (pid := os.fork()):
            while piece := source.read(1 << 16):
                os.write(write, piece)
            os._exit(0)
        os.close(write)
        counts: list[int] = []
        start = peek(pipe)
        assert not start.is_seekable
        assert start.size is None
        assert len(start.data) == 1 << 20
        assert b"".join(start.chunks(counts.append)) == data
        assert sum(counts) == len(data)
        os.waitpid(pid, 0)
    with io.FileIO(path) as file:
        start = peek(file)
        assert start.is_seekable
        assert start.is_tar
        assert start.size == len(data)
        assert b"".join(start.chunks(lambda count: None)) == data
