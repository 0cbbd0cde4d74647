from __future__ import annotations

import bz2
import gzip
import lzma
import random
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from provisioner.archives.compression import OUTPUT, decompress, unexpected_compression
from provisioner.errors import MachineError, MalformedImage, NetworkError
from provisioner.image.digest import CHUNK
from tests.support.archives import tar
from tests.support.builders import compressed
from tests.support.tools import need, unavailable

TYPES = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "": "application/vnd.oci.image.layer.v1.tar",
}
DATA = tar(("file", bytes(range(256)) * 5000), ("zeros", bytes(3 * CHUNK)))
NOISE = compressed(tar(("noise", random.Random(1).randbytes(8 * CHUNK))), "zstd")
FRAMES = compressed(DATA[:CHUNK], "zstd") + compressed(DATA[CHUNK:], "zstd")

OTHERS = {"bzip2": bz2.compress(DATA), "xz": lzma.compress(DATA)}
EMPTY = compressed(b"", "zstd")


def chunks(blob: bytes, size: int = 1000) -> Iterator[bytes]:
    return (blob[at : at + size] for at in range(0, len(blob), size))


def read(blob: bytes, media_type: str) -> bytes:
    return b"".join(decompress(chunks(blob), media_type))


@pytest.fixture(params=["package", "program"])
def zstd_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What decompresses zstd: Python's module, or the program where imports fail as on a Python without packages."""
    if request.param == "program":
        need("zstd")
        for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
            monkeypatch.setitem(sys.modules, module, None)
    return str(request.param)


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [
        *TYPES.items(),
        ("gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ("zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd"),
        ("", "application/vnd.docker.image.rootfs.diff.tar"),
        ("gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    ],
)
def test_layers_are_decompressed_by_their_media_type(compression: str, media_type: str) -> None:
    assert read(compressed(DATA, compression), media_type) == DATA


def test_zstd_with_the_package_and_with_the_program(zstd_by: str) -> None:
    assert read(FRAMES, TYPES["zstd"]) == DATA


def test_gzip_of_several_members() -> None:
    assert read(gzip.compress(DATA[:CHUNK]) + gzip.compress(DATA[CHUNK:]), TYPES["gzip"]) == DATA


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_zeros_may_follow_on_gzip_and_nothing_behind_them(size: int) -> None:
    """Whatever the size of the chunks."""
    padded = gzip.compress(DATA) + bytes(3000)
    assert b"".join(decompress(chunks(padded, size), TYPES["gzip"])) == DATA
    with pytest.raises(MalformedImage, match="can't be decompressed"):
        list(decompress(chunks(padded + gzip.compress(b"more"), size), TYPES["gzip"]))


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_skippable_zstd_frames_are_skipped(zstd_by: str, size: int) -> None:
    """As pzstd writes them, and zstd:chunked and its kind behind the content (RFC 8878, 3.1.2)."""
    skipped = b"\x50\x2a\x4d\x18" + (300).to_bytes(4, "little") + bytes(range(100)) * 3
    blob = skipped + FRAMES + skipped + EMPTY + b"\x5f\x2a\x4d\x18" + bytes(4)
    assert b"".join(decompress(chunks(blob, size), TYPES["zstd"])) == DATA


@pytest.mark.parametrize("kind", ["gzip", ""])
def test_an_empty_blob_is_an_empty_archive(kind: str) -> None:
    assert read(b"", TYPES[kind]) == b""


@pytest.mark.parametrize("kind", TYPES)
def test_a_blob_that_trickles_in_is_recognised(kind: str) -> None:
    blob = compressed(DATA, kind)
    trickling = chain([b""], chunks(blob[:300], 1), [b"", b""], chunks(blob[300:600], 1), chunks(blob[600:]))
    assert b"".join(decompress(trickling, TYPES[kind])) == DATA


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_decompressed_in_small_pieces(kind: str) -> None:
    bomb = compressed(bytes(50 << 20), kind)
    assert len(bomb) < 100_000
    sizes = [len(piece) for piece in decompress(iter([bomb]), TYPES[kind])]
    assert sum(sizes) == 50 << 20
    assert max(sizes) <= OUTPUT


@pytest.mark.parametrize("announced", TYPES)
@pytest.mark.parametrize("kind", ["", "gzip", "zstd", "bzip2", "xz"])
def test_the_bytes_decide_and_not_the_media_type(kind: str, announced: str) -> None:
    """As containerd, podman and Docker read layers; bzip2 and xz as the latter two."""
    blob = OTHERS[kind] if kind in OTHERS else compressed(DATA, kind)
    assert b"".join(decompress(chunks(blob), TYPES[announced])) == DATA
    expected = f"{kind or 'not compressed'}, its media type says {announced or 'tar'}"
    assert unexpected_compression(blob[:100], TYPES[announced]) == ("" if kind == announced else expected)


@pytest.mark.parametrize("media_type", ["application/json", "", "a\x1btar+br", "text/html"])
def test_any_media_type_will_do(media_type: str) -> None:
    assert read(gzip.compress(DATA), media_type) == DATA
    assert unexpected_compression(gzip.compress(DATA), media_type) == "gzip, its media type says tar"


def test_an_old_archive_without_a_magic_number() -> None:
    archive = tar(("file", b"x"), dialect=tarfile.GNU_FORMAT)
    header = bytearray(archive[:512])
    header[257:512], header[148:156] = bytes(255), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert read(bytes(header) + archive[512:], TYPES["gzip"]) == bytes(header) + archive[512:]
    assert read(bytes(10240), TYPES["gzip"]) == bytes(10240)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_bzip2_and_xz_of_several_streams(compress: Callable[[bytes], bytes]) -> None:
    padding = bytes(8) if compress is lzma.compress else b""
    blob = compress(DATA[:CHUNK]) + padding + compress(DATA[CHUNK:]) + padding
    for size in (1, 7, 1000, 1 << 20):
        assert b"".join(decompress(chunks(blob, size), TYPES["gzip"])) == DATA
    for damaged in (blob[: len(blob) // 2], blob + b"rubbish", _changed(blob)):
        with pytest.raises(MalformedImage, match="can't be decompressed"):
            read(damaged, TYPES["gzip"])


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_a_bomb_of_bzip2_or_xz_is_decompressed_in_small_pieces(compress: Callable[[bytes], bytes]) -> None:
    sizes = [len(piece) for piece in decompress(iter([compress(bytes(20 << 20))]), "")]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= OUTPUT


@pytest.mark.parametrize("name", ["bz2", "lzma"])
def test_a_python_without_a_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bz2.compress(DATA) if name == "bz2" else lzma.compress(DATA)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=f"without its module {name}"):
        read(blob, "")


def need_libmagic() -> None:
    """Skip the test where python-magic doesn't find libmagic, which is not Python's."""
    try:
        import magic  # noqa: F401
    except ImportError:
        unavailable("libmagic is missing: apt install libmagic1")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"<!DOCTYPE html><html><body>\x1b[31m</body></html>", r"no archive but something else \(.*HTML"),
        (b"<!DOCTYPE html><html><body>" + b"x" * 1000, r"no archive but something else \(.*HTML"),
        (b"{}", r"no archive but something else \(.*JSON"),
        (b"\0" * 300 + b"x" * 300, "no archive but something else"),
        (DATA[:148] + b"12345678" + DATA[156:], "no archive but something else"),
    ],
)
def test_what_is_no_archive_is_named(blob: bytes, why: str, kind: str) -> None:
    need_libmagic()
    with pytest.raises(MalformedImage, match=why) as caught:
        read(blob, TYPES[kind])
    assert caught.value.message.isprintable()


def test_where_libmagic_cannot_be_loaded_the_first_bytes_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magic", None)
    with pytest.raises(MalformedImage, match=r"begins with b'<html>"):
        read(b"<html>", TYPES["gzip"])


def test_an_encrypted_layer_is_named() -> None:
    with pytest.raises(MalformedImage, match="the layer is encrypted"):
        read(gzip.compress(DATA), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")


def _changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "cut in the header": lambda data: data[:6],
    "rubbish behind": lambda data: data + b"rubbish",
    "changed": _changed,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_gzip_is_malformed(damage: str) -> None:
    with pytest.raises(MalformedImage, match=r"can't be decompressed"):
        read(DAMAGES[damage](compressed(DATA, "gzip")), TYPES["gzip"])


@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"changed"}))  # which zstd need not notice: the digest does
def test_damaged_zstd_is_malformed(zstd_by: str, damage: str) -> None:
    with pytest.raises(MalformedImage, match=r"can't be decompressed"):
        read(DAMAGES[damage](NOISE), TYPES["zstd"])


def test_an_error_of_the_source_is_passed_on(zstd_by: str) -> None:
    def broken() -> Iterator[bytes]:
        yield NOISE[:-20]
        raise NetworkError("the line is dead")

    with pytest.raises(NetworkError, match="the line is dead"):
        list(decompress(broken(), TYPES["zstd"]))


def test_nothing_is_left_when_the_reader_stops_early(zstd_by: str) -> None:
    """The program and the thread that feeds it end silently (warnings are errors)."""
    before = set(threading.enumerate())
    pieces = decompress(chunks(NOISE * 20), TYPES["zstd"])
    assert next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_without_package_and_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as raised:
        list(decompress(chunks(NOISE), TYPES["zstd"]))
    assert "apt install zstd" in raised.value.hint
