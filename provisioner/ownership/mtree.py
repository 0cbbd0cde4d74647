"""The format of ownership.mtree: mtree(5), as bsdtar, go-mtree and NetBSD's mtree read it.

A line a file, `NAME KEYWORD=VALUE…`, below the one of its directory, whose end is a line `..`; there are no paths, so
that the file stays small however deep the tree is. Extended attributes are comments, because bsdtar refuses keywords
that it doesn't know: `# xattr.NAME=BASE64` above the line of their file, spelled as go-mtree's keyword.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from provisioner.errors import MachineError

HEADER = b"#mtree\n"
UP = b"..\n"
_XATTR_MAX = 65536
"""The most bytes that Linux takes as the value of an attribute (xattr(7)); longer ones are left out."""

_ODD = re.compile(rb"[^!-~]|[#*=?\[\\]")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


class Line(NamedTuple):
    """What the record says of a name. `type` is mtree's word, `device` has major and minor."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    device: tuple[int, int] = (0, 0)

    @property
    def is_directory(self) -> bool:
        """Whether what is in it follows."""
        return self.type == b"dir"


def encoded(name: bytes) -> bytes:
    """`name` as vis(3) writes it with VIS_OCTAL, VIS_WHITE and VIS_GLOB, and `=` too."""
    return _ODD.sub(lambda odd: b"\\%03o" % odd[0][0], name)


def decoded(text: bytes) -> bytes:
    """The name that `encoded` gave."""
    return _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), text)


def xattr_comments(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The comments that tell a file's attributes."""
    return b"".join(
        b"# xattr.%s=%s\n" % (encoded(name), base64.b64encode(value))
        for name, value in xattrs
        if len(value) <= _XATTR_MAX
    )


def formatted(line: Line, mtime: int, *, size: int = 0, links: int = 1, target: bytes = b"") -> bytes:
    """A line of the file.

    `mtime` in nanoseconds; `size`, of files, in bytes; `links`, the number of names; `target`, of symlinks. Devices are
    optional, so that bsdtar goes past what stands in for them on the disk.
    """
    words = b"%s type=%s mode=%04o uid=%d gid=%d time=%d.%09d" % (
        encoded(line.name),
        line.type,
        line.mode,
        line.uid,
        line.gid,
        *divmod(mtime, 10**9),
    )
    if line.type == b"file":
        words += b" size=%d" % size
    elif line.type == b"link":
        words += b" link=" + encoded(target)
    elif line.type in (b"char", b"block"):
        words += b" device=native,%d,%d optional" % line.device
    if links > 1 and line.type != b"dir":
        words += b" nlink=%d" % links
    return words + b"\n"


def parsed(lines: Iterable[bytes]) -> Iterator[Line | None]:
    """The lines of a file that this module wrote; None for the end of a directory. Raises MachineError."""
    depth = 0
    for text in lines:
        if text.startswith(b"#"):
            continue
        line = None if text == UP else _parsed(text)
        yield line
        depth += -1 if line is None else line.is_directory
        if not depth:
            return
    raise _damaged()


def _parsed(text: bytes) -> Line:
    try:
        name, *words = text.split()
        values = dict(word.partition(b"=")[::2] for word in words)
        _, major, minor = values.get(b"device", b"native,0,0").split(b",")
        device = (int(major), int(minor))
        kind, mode = values[b"type"], int(values[b"mode"], 8)
        return Line(decoded(name), kind, mode, int(values[b"uid"]), int(values[b"gid"]), device)
    except (ValueError, KeyError) as error:
        raise _damaged() from error


def _damaged() -> MachineError:
    return MachineError("the ownership record is damaged", "provision again, with --force")
