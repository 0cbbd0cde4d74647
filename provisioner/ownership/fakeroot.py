"""The format of fakeroot.state, which `fakeroot -i` reads: see README.saving of fakeroot 1.31."""

from __future__ import annotations

import os
import stat

from provisioner.filesystem.kind import Kind
from provisioner.ownership.mtree import Line
from provisioner.ownership.policy import WITHOUT_ROOT

_FORMATS = {
    b"file": stat.S_IFREG,
    b"dir": stat.S_IFDIR,
    b"link": stat.S_IFLNK,
    b"fifo": stat.S_IFIFO,
    b"char": stat.S_IFCHR,
    b"block": stat.S_IFBLK,
}


def state_line(line: Line, state: os.stat_result) -> bytes:
    """The line for a file whose `lstat` is `state`, in which fakeroot shows what `line` says.

    Empty for what it shows without one: root's files with the mode that a user without privileges can give them.
    """
    if not line.uid and not line.gid and line.type not in (b"char", b"block"):
        kind = Kind.DIRECTORY if line.is_directory else Kind.FILE
        if line.type == b"link" or WITHOUT_ROOT.mode(kind, line.mode) == line.mode:
            return b""
    return b"dev=%x,ino=%d,mode=%o,uid=%d,gid=%d,nlink=%d,rdev=%d\n" % (
        state.st_dev,
        state.st_ino,
        _FORMATS[line.type] | line.mode,
        line.uid,
        line.gid,
        state.st_nlink,
        os.makedev(*line.device),
    )
