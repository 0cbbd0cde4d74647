"""The format of fakeroot.state, which `fakeroot -i` reads: see README.saving of fakeroot 1.31."""

from __future__ import annotations

import os

from provisioner.filesystem.kind import FILE_TYPES, Kind
from provisioner.ownership.mtree import MtreeEntry
from provisioner.ownership.policy import WITHOUT_ROOT


def state_line(entry: MtreeEntry, status: os.stat_result) -> bytes:
    """Return the line that makes fakeroot show a file with the owner, mode and device of `entry`.

    `status` is the file's lstat(2). Returns nothing where fakeroot shows the file rightly without a line: a file of
    root with a mode that a user without privileges can give it.
    """
    kind = entry.kind
    is_roots = not entry.uid and not entry.gid and kind is not Kind.CHARACTER and kind is not Kind.BLOCK
    if is_roots and (kind is Kind.SYMLINK or WITHOUT_ROOT.mode(kind, entry.mode) == entry.mode):
        return b""
    return b"dev=%x,ino=%d,mode=%o,uid=%d,gid=%d,nlink=%d,rdev=%d\n" % (
        status.st_dev,
        status.st_ino,
        FILE_TYPES[kind] | entry.mode,
        entry.uid,
        entry.gid,
        status.st_nlink,
        os.makedev(*entry.device),
    )
