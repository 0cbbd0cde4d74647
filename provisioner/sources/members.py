"""The files of an archive or a directory, by name: found, and read in place."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from provisioner.archives.seekable import SeekableReader
from provisioner.archives.tar import Archive, Entry
from provisioner.errors import MachineError, MalformedImage, NotFound, machine_errors
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.resolution import open_file
from provisioner.filesystem.trust import Untrusted
from provisioner.image.digest import CHUNK
from provisioner.image.manifest import DOCUMENT_LIMIT
from provisioner.terminal.escaping import printable

MAX_MEMBERS = 100_000
"""The most files that an archive of images may have; real ones have a few for each layer."""
_MAX_NAMES = 16 << 20
"""The most bytes that their names and link targets may have together."""
_MAX_LINKS = 8
"""The most links that lead to a file by way of each other."""


class Member(NamedTuple):
    """A regular file of an archive or of a directory."""

    name: str
    """Relative and normal."""
    start: int
    """Where its content begins in the file that has it, in bytes."""
    size: int
    """In bytes."""


class Members(Protocol):
    """The files of an archive or a directory. Names are relative and normal. Methods raise ProvisionError."""

    def names(self) -> Collection[str]:
        """Return the names of the files at the top; an archive may add those that are further down."""

    def find(self, name: str) -> Member | None:
        """Return a file, through links within the archive; None where there is none.

        Raises MalformedImage for one that is there twice with different contents, and for a link that leads out of the
        archive.
        """

    def open(self, member: Member) -> int:
        """Return a new descriptor of the file that has the content of `member`."""

    @property
    def is_whole(self) -> bool:
        """Return whether an archive has its end; True for a directory."""


def read_member(members: Members, name: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
    """Return the content of a small file; None where there is none. Raises MalformedImage for a large one."""
    member = members.find(name)
    if member is None:
        return None
    if member.size > limit:
        raise MalformedImage(f"{printable(name)} has {member.size} bytes, {limit} is the most")
    with closing_descriptor(members.open(member)) as file, machine_errors(f"read {printable(name)}"):
        return read_range(file, member)


def read_range(file: int, member: Member, limit: int | None = None) -> bytes:
    """Return the content of `member`, or its first `limit` bytes, from an open file. Raises MalformedImage, OSError."""
    size = member.size if limit is None else min(limit, member.size)
    data = b""
    while len(data) < size:
        piece = os.pread(file, size - len(data), member.start + len(data))
        if not piece:
            raise MalformedImage(f"{printable(member.name)} ends after {len(data)} of {size} bytes")
        data += piece
    return data


def normal_name(path: bytes) -> str | None:
    """Return the name of a member as it is looked up, `./x` as `x`; None for one that is outside of the archive."""
    name = posixpath.normpath(os.fsdecode(path).lstrip("/"))
    return None if name == ".." or name.startswith("../") else name


class Index:
    """The regular files and links of an archive by their names.

    A file may be there more than once if all have the same content, as `are_same` says of them.
    """

    def __init__(self, are_same: Callable[[Sequence[Member]], bool]) -> None:
        self._are_same = are_same
        self.files: dict[str, Member] = {}
        self._copies: dict[str, list[Member]] = {}
        """All files of a name, where there is more than one."""
        self._links: dict[str, str | None] = {}
        """Links, with the names that they lead to; None where that is outside of the archive."""
        self._contradicted: set[str] = set()
        """Names of links that another link or file has too."""
        self._room = _MAX_NAMES

    def add(self, entry: Entry, start: int, size: int) -> None:
        """Add an entry whose content begins at `start`. Raises MalformedImage where there are too many."""
        self._room -= len(entry.path) + len(entry.target)
        if self._room < 0 or len(self.files) + len(self._links) >= MAX_MEMBERS:
            raise MalformedImage(f"the archive has more than {MAX_MEMBERS} files, or too long names")
        name = self.name_of(entry)
        if name is None or entry.kind not in (Kind.FILE, Kind.SYMLINK, Kind.HARDLINK):
            return
        if name in self._links or (name in self.files and entry.kind is not Kind.FILE):
            self._contradicted.add(name)
        if entry.kind is Kind.FILE:
            member = Member(name, start, size)
            if name in self.files:
                self._copies.setdefault(name, [self.files[name]]).append(member)
            self.files[name] = member
        elif entry.kind is Kind.HARDLINK:
            self._links[name] = normal_name(entry.target)
        else:
            is_absolute = entry.target.startswith(b"/")
            below = os.path.join(posixpath.dirname(os.fsencode(name)), entry.target)
            self._links[name] = None if is_absolute else normal_name(below)

    def name_of(self, entry: Entry) -> str | None:
        """Return the name that an entry is found by; None for one that is outside of the archive."""
        return normal_name(entry.path)

    def find(self, name: str) -> Member | None:
        """Return and raise as Members.find does."""
        shown, links = printable(name), 0
        while True:
            copies = self._copies.get(name, ())
            if name in self._contradicted or (copies and not self._are_same(copies)):
                raise MalformedImage(f"{printable(name)} is in the archive more than once")
            self._copies.pop(name, None)  # they are the same, and need no second look
            if name not in self._links:
                return self.files.get(name)
            links += 1
            if links > _MAX_LINKS:
                raise MalformedImage(f"{shown} is a link that leads to itself")
            target = self._links[name]
            if target is None:
                raise MalformedImage(f"{shown} is a link that leads out of the archive")
            name = target


class TarMembers:
    """The members of an open tar file that is not compressed: listed once, and read in place."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._index = Index(lambda copies: have_same_content(self, copies))
        self.is_whole = False
        """Whether the archive has its end."""

    def read_index(self) -> None:
        """Read the headers of all members. Raises MalformedImage, OSError."""
        reader = SeekableReader(self._file)
        archive = Archive((), reader)
        for entry in archive:
            refuse_holes(entry)
            self._index.add(entry, reader.position, entry.size)
        self.is_whole = archive.is_ended

    def names(self) -> Collection[str]:
        """Return the names of all files."""
        return self._index.files.keys()

    def find(self, name: str) -> Member | None:
        """Return a file, through links within the archive; None where there is none. Raises MalformedImage."""
        return self._index.find(name)

    def open(self, member: Member) -> int:
        """Return a new descriptor of the archive. Raises MachineError."""
        with machine_errors("open the archive"):
            return os.dup(self._file)


def have_same_content(members: Members, copies: Sequence[Member]) -> bool:
    """Return whether files have the same content. Raises MachineError, MalformedImage."""
    first, *others = copies
    if any(other.size != first.size for other in others):
        return False
    with ExitStack() as stack, machine_errors("read the archive"):
        file, *files = [stack.enter_context(closing_descriptor(members.open(copy))) for copy in copies]
        return all(
            _chunk(file, first, offset) == _chunk(other_file, other, offset)
            for other_file, other in zip(files, others, strict=True)
            for offset in range(0, first.size, CHUNK)
        )


def _chunk(file: int, member: Member, offset: int) -> bytes:
    return read_range(file, Member(member.name, member.start + offset, member.size - offset), CHUNK)


def refuse_holes(entry: Entry) -> None:
    """Raise MalformedImage for a file that is stored with holes: it can't be read in place."""
    if entry.extents is not None:
        raise MalformedImage(
            f"{printable(entry.path[:300])} is stored with holes, and can't be read in place",
            "unpack the archive with tar, and name the directory",
        )


class DirectoryMembers:
    """The files below a directory. Symlinks are followed, but not those that strangers have made."""

    is_whole = True
    """Whether nothing is missing at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Collection[str]:
        """Return the names of what is in the directory itself."""
        with machine_errors(f"read {printable(str(self._path))}"):
            return os.listdir(self._path)

    def find(self, name: str) -> Member | None:
        """Return a regular file; None where there is none. Raises MalformedImage for another kind of file."""
        if normal_name(os.fsencode(name)) != name:
            raise MalformedImage(f"{printable(name)} leads out of the directory")
        try:
            with closing_descriptor(self._open(name)) as file:
                return Member(name, 0, os.fstat(file).st_size)
        except NotFound:
            return None

    def open(self, member: Member) -> int:
        """Return a new descriptor of the file."""
        return self._open(member.name)

    def _open(self, name: str) -> int:
        """Open a regular file. Raises NotFound, MalformedImage, MachineError."""
        return open_regular_file(self._path / name)


def open_regular_file(path: Path) -> int:
    """Return the descriptor of a regular file.

    Raises NotFound, MalformedImage for another kind of file, and MachineError where it can't be read or a stranger's
    symlink leads to it.
    """
    shown = printable(str(path))
    try:
        with machine_errors(f"read {shown}"):
            state = os.stat(path)
            if not stat.S_ISREG(state.st_mode):
                raise MalformedImage(f"{shown} is no regular file")
            return open_file(path)
    except MachineError as error:
        cause = error.__cause__
        if isinstance(cause, Untrusted):
            error.hint = "name the file itself, without the symlink"
        elif isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"there is no file {shown}", "check the path") from None
        elif isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            error.hint = "choose a file that you may read"
        raise
