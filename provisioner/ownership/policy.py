"""Who may own files is decided once, here: the policy that a tree's owners and modes follow."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from provisioner.filesystem.kind import Kind


@dataclass(frozen=True)
class Ownership:
    """What becomes of an image's owners, modes and devices.

    `exact`: as the image has them, which takes root, real or fakeroot's. Otherwise everything is the user's, who may
    read, write and delete all of it, and empty files stand in for devices.
    """

    exact: bool

    @classmethod
    def of_this_process(cls) -> Ownership:
        """The policy for this process.

        Under fakeroot the effective user is root as well. Root of a user namespace that maps no other user
        (`unshare -r`) can't give anything away.
        """
        return cls(exact=os.geteuid() == 0 and _mapped_users() > 1)

    def mode(self, kind: Kind, mode: int, has_owners: bool = True) -> int:
        """The permission bits to set where the image has `mode`; `given`: its owners could be set as well.

        What stayed root's is not setuid, which would be for another user.
        """
        if not self.exact:
            return mode | (0o700 if kind is Kind.DIRECTORY else 0o600)
        return mode if has_owners else mode & ~(stat.S_ISUID | stat.S_ISGID)


WITHOUT_ROOT = Ownership(exact=False)


def _mapped_users() -> int:
    """How many users this process's user namespace knows (user_namespaces(7)); all where the kernel doesn't tell."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**32
    return sum(int(line.split()[2]) for line in lines)
