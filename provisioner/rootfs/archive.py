"""Reading tar archives as a stream of entries: ustar, GNU and pax, as the standard library reads them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from provisioner.digest import Reader
from provisioner.errors import MalformedImage, printable

_SECONDS = 2**63 // 10**9


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "link"
    HARDLINK = "hardlink"
    FIFO = "fifo"
    CHARACTER = "char"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `path` and `target` are bytes as the archive has them; `mtime` counts nanoseconds.

    `mode` holds the permission bits, setuid, setgid and sticky. `read(size)` gives a file's content and has to be
    called before the next entry is asked for.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    target: bytes
    device: tuple[int, int]
    size: int
    read: Callable[[int], bytes]


_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER,
    tarfile.BLKTYPE: Kind.BLOCK,
}


def entries(stream: Reader) -> Iterator[Entry]:
    """The entries of the archive in `stream`, in order. Raises MalformedImage.

    An empty stream is an archive without entries: some tools write such layers.
    """
    source = _Source(stream)
    try:
        with tarfile.open(
            fileobj=source, mode="r|", encoding="utf-8", errors="surrogateescape", tarinfo=_Member
        ) as archive:
            while (member := archive.next()) is not None:
                yield _entry(archive, member)
                archive.members = []  # type: ignore[attr-defined]  # the library keeps all that it has met
    except _UNREADABLE as error:
        if source.seen:
            raise _unreadable(error) from error


_UNREADABLE = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What the library raises: its own errors, and others where it trusts the numbers in extended headers."""


def _unreadable(error: BaseException) -> MalformedImage:
    return MalformedImage(f"the archive can't be read: {printable(str(error))}")


class _Member(tarfile.TarInfo):
    """A header. A broken one, which the library takes for the end of the archive, is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise _unreadable(error) from error


class _Source(io.RawIOBase):
    """The stream, with a note whether it held anything."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self.seen = False

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.seen = self.seen or bool(data)
        return data


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS.get(member.type)
    if kind is None:
        raise MalformedImage(f"{printable(member.name[:300])}: entries of type {member.type!r} are unknown")
    if member.size < 0:
        raise MalformedImage(f"{printable(member.name[:300])}: {member.size} is not a size")
    for owner in (member.uid, member.gid):
        if not 0 <= owner < 2**32 - 1:
            raise MalformedImage(f"{printable(member.name[:300])}: {owner} is not an owner")
    device = (member.devmajor, member.devminor) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
    if not (0 <= device[0] < 2**12 and 0 <= device[1] < 2**20):
        raise MalformedImage(f"{printable(member.name[:300])}: {device[0]}:{device[1]} is not a device")
    content = archive.extractfile(member) if kind is Kind.FILE else None

    def read(size: int) -> bytes:
        try:
            return content.read(size) if content else b""
        except _UNREADABLE as error:
            raise _unreadable(error) from error

    return Entry(
        path=member.name.encode("utf-8", "surrogateescape"),
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=_mtime(member),
        target=member.linkname.encode("utf-8", "surrogateescape"),
        device=device,
        size=member.size if kind is Kind.FILE else 0,
        read=read,
    )


def _mtime(member: tarfile.TarInfo) -> int:
    """Nanoseconds, exact where a pax header gives fractions, held to what 64 bits take; 0 for what is no number."""
    try:
        seconds = Decimal(member.pax_headers.get("mtime", member.mtime))
        return int(max(Decimal(-_SECONDS), min(Decimal(_SECONDS), seconds)) * 10**9)
    except (ArithmeticError, ValueError):
        return 0
