"""The policy for owners and modes, decided once: whether this process can give files to other users."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from provisioner.filesystem.kind import Kind


@dataclass(frozen=True)
class Ownership:
    """How the owners, modes and devices of an image are set."""

    exact: bool
    """Whether they are set as the image has them, for which the process must be root (real or fakeroot's).

    Otherwise all files belong to the user, who may read, write and delete them, and empty files stand in for devices.
    """

    @classmethod
    def of_this_process(cls) -> Ownership:
        """Return the policy for this process.

        Under fakeroot the effective user is root as well. Root of a user namespace with no other user in it
        (`unshare -r`) can't change the owner of a file.
        """
        return cls(exact=os.geteuid() == 0 and _mapped_users() > 1)

    def mode(self, kind: Kind, mode: int, has_owners: bool = True) -> int:
        """Return the permission bits to set on a file that has `mode` in the image.

        `has_owners` is whether its owner and group could be set, too: a file that stayed root's gets no setuid and
        setgid, which would make it setuid to another user than the image says.
        """
        if not self.exact:
            return mode | (0o700 if kind is Kind.DIRECTORY else 0o600)
        return mode if has_owners else mode & ~(stat.S_ISUID | stat.S_ISGID)


WITHOUT_ROOT = Ownership(exact=False)


def _mapped_users() -> int:
    """Return how many users this process's user namespace maps (user_namespaces(7)), or 2**32 without /proc."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**32
    return sum(int(line.split()[2]) for line in lines)
