"""The names of the files in a provisioned directory, DIR, and whether something looks like one.

start.sh is shell code and can't import them: scripts/start/*.sh contains them again.
"""

from __future__ import annotations

import os
from pathlib import Path

SCRIPT = "start.sh"
ROOTFS = "rootfs"
"""The directory that the image is unpacked to."""
FOLDER = ".provision"
"""The directory with the files and directories that follow."""

RECORD = "record.json"
"""The image, its digests and the options of DIR (container.record)."""
MANIFEST, CONFIG = "manifest.json", "config.json"
"""The image's documents, byte for byte."""
OWNERSHIP_RECORD = "ownership.mtree"
"""The image's metadata of every file, in mtree(5) format (ownership.record)."""
FAKEROOT_STATE = "fakeroot.state"
"""The same metadata for fakeroot(1), by inode."""
ACCOUNTS = "accounts"
"""The directory with the image's files of users and groups, such as passwd(5)."""
PACKAGES = "packages"
"""The names of the image's packages that were installed by hand, one per line."""

GENERATED = "generated"
"""The directory with GENERATED_NAMES as start.sh last wrote them to /etc in the rootfs."""
GENERATED_NAMES = ("resolv.conf", "hosts", "hostname")
"""The files of /etc that depend on the machine. A profile may replace some of them."""
MOUNT_POINTS = "mount-points"
"""The paths that start.sh creates as mount points, relative to the rootfs, one per line."""
IDS = "ids"
"""Whether the container's user namespaces have one or many ids (container.ids)."""
LINKS = "links"
"""The path of the rootfs in the symlinks by which Termux's proot emulates hard links."""
NEW_LINK, LINKS_TURN = "links.new", "links.turn"
"""Prefixes of the temporary files that exist while start.sh replaces these symlinks."""
SHARED_MEMORY = "shm"
"""The directory that is /dev/shm in proot."""
SESSIONS = "run"
"""The directory with a file for each session, named by its process id."""
LOG = "log"
"""The output of sessions in the background. It may be a symlink."""
PROOT_FACTS = "proot-facts"
"""The properties of this machine's proot that start.sh has found out."""
OLD_SCRIPT = "start.sh.old"
"""The previous start.sh, if it may have been edited or couldn't run."""

CHANGED = "changed"
"""An empty file whose modification time is that of the last change (container.stamps)."""
STAMPS = "stamps"
"""The paths of the stamps for make(1), as JSON."""

HELPER, TERMINAL_RELAY, PROOT_PROBE = "helper", "terminal-relay", "proot-probe"
"""The static programs (launch.runtime_files)."""
MACHINE = "machine"
"""The machine for which these programs are, as `uname -m` names it."""
EMULATION_FILTER, PROOT_FILTER = "seccomp.bpf", "proot.bpf"
CONTAINER_FILTER, BACKGROUND_FILTER = "container.bpf", "background.bpf"
"""The seccomp filters."""


def looks_provisioned(path: Path | str) -> bool:
    """Return whether a directory is at a path and has a FOLDER; nothing in it is looked at. Follows symlinks."""
    return os.path.isdir(os.path.join(path, FOLDER))
