"""Recognises formats other than tar by the first bytes of a file, and says how to make a tar archive of one."""

from __future__ import annotations

from typing import NamedTuple

from provisioner.archives.compression import compression_of
from provisioner.archives.fields import BLOCK, has_right_checksum
from provisioner.errors import MalformedImage

_SQUASHFS = b"hsqs"
HEAD = 0x10100
"""How many bytes at the beginning of a file are enough to recognise all formats; from fewer, only some are."""
_UNPACK = "unpack it to a directory, then: tar -C DIRECTORY -c . | provision rootfs:- DIR"
_DISK = (
    "take a root file system of the same system, a tar file; or copy the files out of it: "
    "guestfish -a FILE -i tar-out / rootfs.tar (package guestfish)"
)
_RPM = "rpm2archive - <FILE | provision rootfs:- DIR, if it really has a whole root file system"
_DEB = "dpkg-deb --fsys-tarfile FILE | provision rootfs:- DIR, if it really has a whole root file system"


class Foreign(NamedTuple):
    """A format that can't be read."""

    name: str
    """Such as `a zip archive`."""
    hint: str
    """What to type."""


_KINDS: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"PK\x03\x04", Foreign("a zip archive", f"unzip -d DIRECTORY FILE: {_UNPACK}")),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", f"7z x -oDIRECTORY FILE: {_UNPACK}")),
    (0, b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK)),
    (0, b"070701", Foreign("a cpio archive", "bsdtar -cf rootfs.tar @FILE, then rootfs:rootfs.tar")),
    (0, b"070702", Foreign("a cpio archive", "bsdtar -cf rootfs.tar @FILE, then rootfs:rootfs.tar")),
    (0, b"070707", Foreign("a cpio archive", "bsdtar -cf rootfs.tar @FILE, then rootfs:rootfs.tar")),
    (0, b"\xc7\x71", Foreign("a cpio archive", "bsdtar -cf rootfs.tar @FILE, then rootfs:rootfs.tar")),
    (0, b"!<arch>\ndebian-binary", Foreign("a Debian package", _DEB)),
    (0, b"!<arch>\n", Foreign("an archive of ar(1)", _UNPACK)),
    (0, b"\xed\xab\xee\xdb", Foreign("an RPM package", _RPM)),
    (0x8001, b"CD001", Foreign("an ISO image", "bsdtar -xf FILE, and look for a squashfs in it: rootfs:SQUASHFS")),
    (0, b"QFI\xfb", Foreign("a qcow2 disk of a virtual machine", _DISK)),
    (0, b"KDMV", Foreign("a VMDK disk of a virtual machine", _DISK)),
    (0, b"vhdxfile", Foreign("a VHDX disk of a virtual machine", _DISK)),
    (0, b"conectix", Foreign("a VHD disk of a virtual machine", _DISK)),
    (0x40, b"\x7f\x10\xda\xbe", Foreign("a VDI disk of a virtual machine", _DISK)),
    (512, b"EFI PART", Foreign("an image of a disk", _DISK)),
    (0x438, b"\x53\xef", Foreign("an ext4 file system", _DISK)),
    (0x10040, b"_BHRfS_M", Foreign("a btrfs file system", _DISK)),
    (0, b"XFSB", Foreign("an XFS file system", _DISK)),
    (0x400, b"\xe2\xe1\xf5\xe0", Foreign("an EROFS file system", f"fsck.erofs --extract=DIRECTORY FILE: {_UNPACK}")),
    (510, b"\x55\xaa", Foreign("an image of a disk", _DISK)),
    (32, b"SIF_MAGIC", Foreign("a SIF image of Singularity", f"singularity build --sandbox DIRECTORY FILE: {_UNPACK}")),
    (0, b"LZIP", Foreign("compressed by lzip", "lzip -dc FILE | provision - DIR")),
    (0, b"\x1f\x9d", Foreign("compressed by compress(1)", "zcat FILE | provision - DIR")),
    (0, b"\x5d\x00\x00", Foreign("compressed by lzma(1)", "xz -dc --format=lzma FILE | provision - DIR")),
    (0, b"\x89LZO\x00\x0d\x0a\x1a\x0a", Foreign("compressed by lzop", "lzop -dc FILE | provision - DIR")),
    (0, b"\x7fELF", Foreign("a program", "name an archive of a root file system, or of an image")),
)


def foreign_content(head: bytes) -> Foreign | None:
    """Return the format of a file that begins with `head`; None for one that can be read, and for an unknown one."""
    if compression_of(head) or head.startswith(_SQUASHFS) or _is_header(head):
        return None
    found = next((kind for at, magic, kind in _KINDS if head.startswith(magic, at)), None)
    if found is None and head[:1000].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        hint = "check the address: servers send such a page in place of the file, also where one has to log in"
        return Foreign("a web page", hint)
    return found


def _is_header(head: bytes) -> bool:
    try:
        return len(head) >= BLOCK and has_right_checksum(head[:BLOCK])
    except MalformedImage:
        return False
