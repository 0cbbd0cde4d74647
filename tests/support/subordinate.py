"""Subordinate ids of the unprivileged user, as in /etc/subuid and /etc/subgid, without a change of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tests.support.tools import as_user, need, need_root, unavailable, user_id

FIRST = 3_000_000


def with_subordinate_ids(place: Path, first: int = FIRST) -> dict[str, Any]:
    """Return options of Container.run that start it as the unprivileged user, who has 65536 ids from `first` on."""
    need_root()
    need("newuidmap", "setpriv")
    for file in ("/etc/subuid", "/etc/subgid"):
        if not Path(file).exists():
            unavailable(f"there is no {file} to put another in place of")
    subid, passwd = place / f"subid-{first}", place / "passwd"
    subid.write_text(f"{user_id()}:{first}:65536\n" if first else "")
    passwd.write_text(f"root:x:0:0::/:/bin/sh\ntester:x:{user_id()}:{user_id()}::/:/bin/sh\n")
    setup = " && ".join(
        [
            "mount --make-rprivate /",
            *(f"mount --bind {shlex.quote(str(subid))} /etc/{name}" for name in ("subuid", "subgid")),
            f"mount --bind {shlex.quote(str(passwd))} /etc/passwd",
            f'exec setpriv --reuid {user_id()} --regid {user_id()} --clear-groups "$@"',
        ]
    )
    return {"shell": ["unshare", "--mount", "sh", "-c", setup, "sh"], "by": "chroot", "env": as_user()["env"]}
