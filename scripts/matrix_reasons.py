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


ONE_ID = "there is only one id, so that no process can become another user: use `--ids many`"
SAME_USER = "proot doesn't check permissions between the guest's users, because all of them are the caller"
SOCKET = "the peer of a socket sees the caller's id instead of the guest's 0 (SO_PEERCRED)"
ABORTS = "a dependency runs systemd-tmpfiles, which reads symlinks by descriptor (readlinkat(2)), and this proot aborts"
OLD = "this proot doesn't translate statx(2) and similar calls, so that programs see the host's files"
OWNER = "chown(2) succeeds, but later stat(2) returns the former owner"
HOME = "chown(2) had no effect, and userdel -r doesn't remove a home directory of another owner"
CLUSTER = "the package creates its cluster as the user postgres, who must own the files, but chown(2) has no effect"
LINKS = "proot emulates hard links by symlinks, each with another inode number"

REASONS = (
    Reason("exit status", "proot-plain", "", "after a child has ended, proot may return another process's status"),
    Reason("chown", "proot|userns$", "stat says", OWNER),
    Reason("useradd|adduser", "proot|userns$", "status 12", HOME),
    Reason("tar|rsync", "proot-termux", "status 1", LINKS),
    Reason("apt install", "proot", "compare_paths2", ABORTS),
    Reason("postgres .package", "proot", "made no cluster|not found", CLUSTER),
    Reason("postgres|su$|sudo|sshd|users", "userns$", "", ONE_ID),
    Reason("users", "proot", "joe (reads|writes)", SAME_USER),
    Reason(
        "sudo",
        "proot$",
        "",
        "the filter requires no_new_privs, with which sudo refuses to run for users other than root",
    ),
    Reason("sshd", "proot", "chroot", "sshd calls chroot(2) for its unprivileged child, which proot refuses"),
    Reason("dbus|tmux|mariadb", "proot", "reply|not allowed|denied", SOCKET),
    Reason("ping", "proot|userns", "", "users may not ping here: sysctl net.ipv4.ping_group_range (doctor shows it)"),
    Reason(
        "gdb|strace",
        "proot(-plain)?$",
        "",
        "proot itself traces all programs, and emulates only a part of ptrace(2) for them",
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
