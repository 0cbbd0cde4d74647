"""Who this process is and who started it, as far as that decides whose files it may rely on."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc/self")
_OVERFLOW = Path("/proc/sys/kernel/overflowuid")
_NO_LOGIN = 2**32 - 1
"""What loginuid says where nobody has logged in."""
_HOST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of the PID namespace that no container has (PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h)."""


def kernel_user() -> set[int]:
    """Return this process's effective user as the kernel knows it: fakeroot and proot only pretend to be root."""
    found = re.search(r"^Uid:\s+\d+\s+(\d+)", _read(_PROC / "status"), re.MULTILINE)
    return {int(found[1])} if found else set()


def unmapped_user() -> set[int]:
    """Return the id by which a user namespace shows all users that it can't name, where no user of its own has it.

    These are the machine's own root, and all others outside of the namespace. Empty outside of user namespaces.
    """
    return overflow_of(_read(_PROC / "uid_map"), _read(_OVERFLOW))


def overflow_of(uid_map: str, overflow: str) -> set[int]:
    """Return what `unmapped_user` returns, by the content of /proc/self/uid_map and of overflowuid."""
    try:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in uid_map.splitlines()]
        id_ = int(overflow or 65534)
    except (ValueError, IndexError):
        return set()
    return {id_} if ranges and not any(first <= id_ < first + count for first, count in ranges) else set()


def is_unmapped(directory: int) -> bool:
    """Return whether an open directory belongs to somebody whom this user namespace, whose root this is, can't name.

    Its root may do what only an owner may (O_NOATIME) with the files of all users that it can name.
    """
    if os.geteuid() != 0 or str(os.fstat(directory).st_uid) != _read(_OVERFLOW).strip():
        return False
    if is_whole_machine(_read(_PROC / "uid_map")):
        return False
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME | os.O_CLOEXEC, dir_fd=directory))
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def is_whole_machine(uid_map: str) -> bool:
    """Return whether a namespace with this uid_map can name all users."""
    return uid_map.split() == ["0", "0", str(2**32 - 1)]


def users_before_root(environment: Mapping[str, str]) -> set[int]:
    """Return who became root by sudo, doas, pkexec or tsu, and who has logged in.

    The environment comes from that user, and is believed: who became root could also do anything else as root.
    """
    users = {
        number for name in ("SUDO_UID", "PKEXEC_UID") if (number := _number(environment.get(name, ""))) is not None
    }
    if name := environment.get("DOAS_USER"):
        users |= _user_of(name)
    if (login := _number(_read(_PROC / "loginuid").strip())) not in (None, _NO_LOGIN):
        users.add(login or 0)
    prefix = environment.get("PREFIX", "")
    if re.fullmatch(r"/data/[^\0]*/files/usr/?", prefix):  # tsu leaves it, and names nobody
        with suppress(OSError):
            users.add(os.stat(prefix).st_uid)
    return users


def private_groups(users: Iterable[int]) -> frozenset[int]:
    """Return the primary groups of these users that have no other member: those that are called like their users.

    A user and a group with the same number, and no name, count as that too.
    """
    try:
        import grp
        import pwd
    except ImportError:
        return frozenset()
    groups = set()
    for uid in users:
        try:
            user = pwd.getpwuid(uid)
        except (KeyError, OSError):
            with suppress(OSError):
                try:
                    grp.getgrgid(uid)
                except KeyError:
                    groups.add(uid)
            continue
        with suppress(KeyError, OSError):
            group = grp.getgrgid(user.pw_gid)
            if group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name, "root"}:
                groups.add(group.gr_gid)
    return frozenset(groups)


def has_android_ids(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether user and group ids are Android's, by what Python was made for or by Termux's PREFIX."""
    return hasattr(sys, "getandroidapilevel") or environment.get("PREFIX", "").startswith("/data/data/")


def is_job_in_container(environment: Mapping[str, str]) -> bool:
    """Return whether this is a job of CI, which sets CI, in a container: a PID namespace of its own.

    Checkouts have any owner and any mode there, and nobody else is at work.
    """
    if environment.get("CI", "").lower() in ("", "0", "false", "no"):
        return False
    try:
        return os.stat(_PROC / "ns/pid").st_ino != _HOST_PID_NAMESPACE
    except OSError:
        return False


def _user_of(name: str) -> set[int]:
    try:
        import pwd

        return {pwd.getpwnam(name).pw_uid}
    except (ImportError, KeyError, OSError):
        return set()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
