"""The reasons why programs don't work in a runtime: one line for each known kind of failure.

The first of `REASONS` whose expressions match a cell's row, column and last words explains it. A cell that none
explains shows its last words alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Reason(NamedTuple):
    """An explanation of cells; the first three are regular expressions."""

    row: str
    column: str
    said: str
    text: str


ONE_ID = "there is one id, so that nobody can become another user: `--ids many` has others"
SAME_USER = "proot doesn't check permissions between the guest's users, who all are the caller"
SOCKET = "the other end of a socket is told the caller's id, not the guest's 0 (SO_PEERCRED)"
ABORTS = "a dependency runs systemd-tmpfiles, which reads a link by its descriptor (readlinkat(2)): this proot aborts"
OLD = "this proot doesn't translate statx(2) and its like, so that programs look at the host's files"
OWNER = "chown(2) succeeds and changes nothing that is seen later"
HOME = "userdel -r leaves a home that isn't its user's, and chown(2) has changed nothing"
CLUSTER = "the package makes its cluster as postgres, whose files have to be its own: chown(2) isn't remembered"
LINKS = "the names of a hard link are symlinks to one file, each with an inode number of its own"

REASONS = (
    Reason("exit status", "proot-plain", "", "once a child has ended, proot reports another process's status"),
    Reason("chown", "proot|userns$", "stat says", OWNER),
    Reason("useradd|adduser", "proot|userns$", "status 12", HOME),
    Reason("tar|rsync", "proot-termux", "status 1", LINKS),
    Reason("apt install", "proot", "compare_paths2", ABORTS),
    Reason("postgres .package", "proot", "made no cluster|not found", CLUSTER),
    Reason("postgres|su$|sudo|sshd|users", "userns$", "", ONE_ID),
    Reason("users", "proot", "joe (reads|writes)", SAME_USER),
    Reason(
        "sudo", "proot$", "", "the filter needs no_new_privs, with which sudo refuses to run for users other than root"
    ),
    Reason("sshd", "proot", "chroot", "sshd calls chroot(2) for its unprivileged child, which proot refuses"),
    Reason("dbus|tmux|mariadb", "proot", "reply|not allowed|denied", SOCKET),
    Reason("ping", "proot|userns", "", "users may not ping here: sysctl net.ipv4.ping_group_range (doctor shows it)"),
    Reason(
        "gdb|strace",
        "proot(-plain)?$",
        "",
        "proot traces the guest itself, and emulates ptrace(2) for others in part only",
    ),
    Reason("(ls|test|chown|tar|node|npm|java|rust|mariadb)", "proot-plain", "", OLD),
)
"""The last words may match anywhere."""


def explain(row: str, column: str, said: str) -> str:
    """Return the explanation of a cell, or an empty text."""
    for reason in REASONS:
        if re.match(reason.row, row) and re.match(reason.column, column) and re.search(reason.said, said):
            return reason.text
    return ""
