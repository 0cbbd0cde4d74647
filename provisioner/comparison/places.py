"""Paths of a rootfs that mean something to an update or a repair: the user's places, and package databases."""

from __future__ import annotations

from provisioner.rootfs.account_files import ACCOUNT_FILES

CONFIGURATION = b"etc/"
"""Where a file that the user has changed stays, and the image's new one comes beside it."""
_USER_DATA = tuple(f"{path}/".encode() for path in ("home", "root", "srv", "opt", "usr/local", "var/lib", "var/www"))
"""Directories below which what the user has changed stays."""
_DATABASES = tuple(
    path.encode()
    for path in (
        "var/lib/dpkg/status",
        "lib/apk/db/installed",
        "usr/lib/apk/db/installed",
        "var/lib/rpm/",
        "usr/lib/sysimage/rpm/",
        "var/lib/pacman/local/",
    )
)
"""Files, and directories of files, in which package managers say what is installed."""

_LOCKS = (b".rpm.lock", b".dbenv.lock")
"""Files that rpm makes beside its database also when it is only read, as it does `__db.001` and `rpmdb.sqlite-shm`."""


def is_configuration(path: bytes) -> bool:
    """Return whether a path is below /etc."""
    return path.startswith(CONFIGURATION)


def is_user_data(path: bytes) -> bool:
    """Return whether a path is below a directory whose content belongs to the user rather than to the image."""
    return path.startswith(_USER_DATA)


def is_package_database(path: bytes) -> bool:
    """Return whether a file belongs to the database of a package manager."""
    name = path.rpartition(b"/")[2]
    return path.startswith(_DATABASES) and not (name in _LOCKS or name.startswith(b"__db.") or name.endswith(b"-shm"))


_ACCOUNT_FILES = frozenset(f"etc/{name}".encode() for name in ACCOUNT_FILES)


def is_account_file(path: bytes) -> bool:
    """Return whether a file has a line for each user or group, so that it can be merged line by line."""
    return path in _ACCOUNT_FILES
