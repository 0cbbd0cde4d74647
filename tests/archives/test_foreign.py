"""What is no tar archive, by its first bytes."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.archives.foreign import foreign_content
from tests.support.archives import tar


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("etc/x", "x")
    return data.getvalue()


KINDS = {
    "a zip archive": zipped(),
    "a 7z archive": bytes.fromhex("377abcaf271c"),
    "a cpio archive": b"070701",
    "an ISO image": bytes(510) + b"\x55\xaa" + bytes(0x8001 - 512) + b"CD001",  # also as a disk
    "a qcow2 disk": b"QFI\xfb",
    "a Debian package": b"!<arch>\ndebian-binary   ",
    "an archive of ar": b"!<arch>\nx.o",
    "an RPM package": bytes.fromhex("edabeedb"),
    "an image of a disk": b"x" * 510 + b"\x55\xaa",
    "an ext4 file system": bytes(0x438) + b"\x53\xef",
    "a web page": b"\n<!DOCTYPE html><title>log in",
    "a program": b"\x7fELF",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    found = foreign_content(KINDS[kind] + bytes(3000))
    assert found
    assert found.name.startswith(kind)
    assert found.hint


def test_an_archive_is_none_of_them() -> None:
    for name in ("070701", "QFI", "x" * 99):
        assert foreign_content(tar((name, b"PK\x03\x04"))) is None
    marks = b"x" * 498 + b"\x55\xaa"  # any bytes may be there in compressed data
    heads = (b"hsqs", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    for data in (b"", b"hello", bytes(3000), *(head.ljust(12, b"x") + marks for head in heads)):
        assert foreign_content(data) is None


@given(st.binary(max_size=1000))
def test_any_bytes_may_come(data: bytes) -> None:
    foreign_content(data)
