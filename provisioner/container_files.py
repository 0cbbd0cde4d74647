"""The names of the files in a provisioned directory, DIR, and whether something looks like one.

start.sh, which is shell text, spells them itself (scripts/start/*.sh).
"""

from __future__ import annotations

import os
from pathlib import Path

SCRIPT = "start.sh"
ROOTFS = "rootfs"
"""The directory that the image is unpacked to."""
FOLDER = ".provision"
"""The directory with all files below."""

RECORD = "record.json"
"""What DIR was made of (container.record)."""
MANIFEST, CONFIG = "manifest.json", "config.json"
"""The image's documents, byte for byte."""
OWNERSHIP_RECORD = "ownership.mtree"
"""What the image says of every file (ownership.record)."""
FAKEROOT_STATE = "fakeroot.state"
"""The same for fakeroot(1), by inode."""
ACCOUNTS = "accounts"
"""The directory with the image's files of users and groups, such as passwd."""
PACKAGES = "packages"
"""The names of the packages that were installed by hand in the image, a line each."""

GENERATED = "generated"
"""The directory with GENERATED_NAMES as start.sh wrote them last to /etc in the rootfs."""
GENERATED_NAMES = ("resolv.conf", "hosts", "hostname")
"""The files of /etc that depend on the machine. A profile may have its own in place of some."""
MOUNT_POINTS = "mount-points"
"""What start.sh makes in the rootfs for mounts, a path from there a line."""
IDS = "ids"
"""Whether the user namespaces of the container have many ids (container.ids)."""
LINKS = "links"
"""The path of the rootfs to which the hard links of Termux's proot lead, as start.sh wrote it."""
NEW_LINK, LINKS_TURN = "links.new", "links.turn"
"""How the names of files begin that are there while these links are led to another path."""
SHARED_MEMORY = "shm"
"""The directory that guests of proot have as /dev/shm."""
SESSIONS = "run"
"""The directory with a file for each session, by process number."""
LOG = "log"
"""What sessions in the background have written. It may be a symlink."""
PROOT_FACTS = "proot-facts"
"""What start.sh has found out about this machine's proot."""
OLD_SCRIPT = "start.sh.old"
"""A start.sh that was edited, or couldn't run, before it was written anew."""

CHANGED = "changed"
"""An empty file with the time of the last change (container.stamps)."""
STAMPS = "stamps"
"""The paths of the stamps for make(1), as JSON."""

HELPER, TERMINAL_RELAY, PROOT_PROBE = "helper", "terminal-relay", "proot-probe"
"""The static programs (launch.runtime_files)."""
MACHINE = "machine"
"""The machine that these are for, as `uname -m` names it."""
EMULATION_FILTER, PROOT_FILTER = "seccomp.bpf", "proot.bpf"
CONTAINER_FILTER, BACKGROUND_FILTER = "container.bpf", "background.bpf"
"""The seccomp filters."""


def looks_provisioned(path: Path | str) -> bool:
    """Return whether a directory is at a path and has a FOLDER; nothing in it is looked at. Follows symlinks."""
    return os.path.isdir(os.path.join(path, FOLDER))
