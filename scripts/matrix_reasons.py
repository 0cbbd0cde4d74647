"""Why a program doesn't work in a runtime, in words: one line for each kind of "no" that is understood.

The first of `REASONS` whose expressions match a cell's row, column and last words explains it. A cell that none
explains shows its last words alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Reason(NamedTuple):
    """An explanation of cells; the first three are regular expressions that have to match from the beginning."""

    row: str
    column: str
    said: str
    text: str


ONE_ID = "there is one id, so that nobody can become another user: `--ids many` has others"
SAME_USER = "proot doesn't check permissions between the guest's users, who all are the caller"
SOCKET = "the other end of a socket is told the caller's id, not the guest's 0 (SO_PEERCRED)"
ABORTS = "a dependency runs systemd-tmpfiles, which reads a link by its descriptor (readlinkat(2)): this proot aborts"
OLD = "proot doesn't translate statx(2) and its like, so that the program looks at the host's files"

REASONS = (
    Reason("exit status", "proot-plain", "", "once a child has ended, proot reports another process's status"),
    Reason(
        "chown", "userns$", "", "one id owns everything: the filter answers chown(2) with success and changes nothing"
    ),
    Reason("chown", "proot", "stat says", "proot answers chown(2) with success and doesn't remember it"),
    Reason(
        "useradd",
        "proot|userns$",
        "status 12",
        "userdel -r leaves a home that isn't the user's, and chown changed nothing",
    ),
    Reason("apt install", "proot", ".*compare_paths2", ABORTS),
    Reason("postgres .package", "proot", ".*not found", "apt could not install it, see above"),
    Reason("postgres|su$|sudo|sshd|users", "userns$", "", ONE_ID),
    Reason("users", "proot", ".*joe ", SAME_USER),
    Reason(
        "sudo",
        "proot",
        ".*(sudo id of joe|plugins)",
        "for joe, proot shows all files as joe's, and sudo's have to be root's",
    ),
    Reason("sshd", "proot", ".*chroot", "sshd calls chroot(2) for its unprivileged child, which proot refuses"),
    Reason("dbus|tmux|mariadb", "proot", ".*(reply|not allowed|denied)", SOCKET),
    Reason("ping", "proot|userns", "", "users may not ping here: sysctl net.ipv4.ping_group_range (doctor shows it)"),
    Reason(
        "gdb", "proot(-plain)?$", "", "proot traces the guest itself, and emulates ptrace(2) for others in part only"
    ),
    Reason("(ls|test|chown|tar|node|npm|java|rust)", "proot-plain", "", OLD),
)


def explain(row: str, column: str, said: str) -> str:
    """Return the explanation of a cell, or an empty text."""
    for reason in REASONS:
        if all(re.match(pattern, text) for pattern, text in zip(reason[:3], (row, column, said), strict=True)):
            return reason.text
    return ""
