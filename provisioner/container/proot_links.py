"""Hard links that Termux's proot has made in a rootfs: whether their content is still found.

With --link2symlink, proot moves the content of a file that gets a hard link to `.l2s/.l2s.NAME0001.0002`, makes the
symlink `.l2s/.l2s.NAME0001` to it, and symlinks to that in place of the hard links, all by absolute paths.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.container.access import read_file
from provisioner.container_files import FOLDER, LINKS, NEW_LINK, ROOTFS
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.walk import walk

LINK_FOLDER = ".l2s"
"""The directory in the rootfs."""
LAST_NUMBER = 999
"""proot counts up to this number for each NAME, then it takes the name of another file and overwrites that."""

PREFIX = b".l2s."
"""What the names of the files in LINK_FOLDER begin with."""
_NUMBERED = re.compile(rb"\.l2s\.(.*)(\d{4})", re.DOTALL)
_SHOWN = 3


@dataclass
class ProotLinks:
    """What was found of proot's links in a directory."""

    count: int = 0
    """How many hard links are links of proot."""
    lost: list[str] = field(default_factory=list)
    """Names, from the rootfs, of some links without content."""
    lost_count: int = 0
    elsewhere: str = ""
    """The rootfs that links lead to, if it is another one."""
    elsewhere_count: int = 0
    used_up: list[str] = field(default_factory=list)
    """Names of files of which no further one can get a hard link."""
    is_blocked: bool = False
    """Whether there is something at `.l2s` that is no directory."""


def find_links(directory: Path) -> ProotLinks:
    """Look at all links of proot in the rootfs of a provisioned directory. Raises OSError."""
    rootfs = Path(os.path.realpath(directory / ROOTFS))
    found = ProotLinks(is_blocked=_is_blocked(rootfs))
    here = [os.fsencode(rootfs)]
    if (recorded := _recorded(directory)) and os.path.exists(recorded) and os.path.samefile(recorded, rootfs):
        here.append(recorded)
    numbers: Counter[bytes] = Counter()
    path: list[bytes] = []
    for file in walk(rootfs):
        if file is None:
            path.pop()
            continue
        if match := _NUMBERED.fullmatch(file.name):
            numbers[match[1]] = max(numbers[match[1]], int(match[2]))
        if stat.S_ISLNK(file.stat.st_mode):
            target = os.readlink(file.name, dir_fd=file.directory)
            if target.startswith(b"/") and os.path.basename(target).startswith(PREFIX):
                _add(found, os.fsdecode(b"/".join([*path[1:], file.name])), target, here)
        if file.is_directory:
            path.append(file.name)
    found.used_up = [os.fsdecode(name) for name, number in sorted(numbers.items()) if number >= LAST_NUMBER][:_SHOWN]
    return found


def _add(found: ProotLinks, name: str, target: bytes, here: list[bytes]) -> None:
    """Count the link `name` with its target."""
    is_number = os.path.basename(name).startswith(os.fsdecode(PREFIX))
    found.count += not is_number
    if any(target.startswith(rootfs + b"/") for rootfs in here):
        if not _has_content(target):
            found.lost_count += 1
            found.lost += [name] if found.lost_count <= _SHOWN else []
    elif place := _place_of(target, here[0]):
        found.elsewhere, found.elsewhere_count = place, found.elsewhere_count + 1
    elif not is_number:
        found.lost_count += 1
        found.lost += [name] if found.lost_count <= _SHOWN else []


def _has_content(target: bytes) -> bool:
    """Return whether a link with this target leads to a file, by one more link at most."""
    try:
        if stat.S_ISLNK(os.lstat(target).st_mode):
            target = os.readlink(target)
        return stat.S_ISREG(os.lstat(target).st_mode) or not target.startswith(b"/")
    except OSError:
        return False


def _place_of(target: bytes, rootfs: bytes) -> str:
    """Return the other rootfs that a target names, if this one has the same file; empty where it hasn't."""
    for match in re.finditer(rb"/rootfs(?=/)", target):
        if os.path.lexists(rootfs + target[match.end() :]):
            return os.fsdecode(target[: match.end()])
    return ""


def _recorded(directory: Path) -> bytes:
    try:
        return (directory / FOLDER / LINKS).read_bytes().removesuffix(b"\n")
    except OSError:
        return b""


def _is_blocked(rootfs: Path) -> bool:
    place = rootfs / LINK_FOLDER
    return os.path.lexists(place) and (place.is_symlink() or not place.is_dir())


def is_link(target: bytes) -> bool:
    """Return whether a symlink with this target is one of proot's."""
    return target.startswith(b"/") and os.path.basename(target).startswith(PREFIX)


def retargeted(target: bytes, former: Iterable[bytes], rootfs: bytes) -> bytes:
    """Return the target of a symlink for a rootfs that was at one of the absolute paths `former` and is at `rootfs`.

    Only links of proot change, also those that still lead to an older path: into the LINK_FOLDER of a directory called
    rootfs.
    """
    if not is_link(target):
        return target
    for place in former:
        if target.startswith(place + b"/"):
            return rootfs + target[len(place) :]
    older, found, name = target.rpartition(b"/rootfs/" + os.fsencode(LINK_FOLDER) + b"/")
    return b"/".join([rootfs, os.fsencode(LINK_FOLDER), name]) if found and older and b"/" not in name else target


def read_linked_rootfs(folder: int) -> bytes:
    """Return the path of the rootfs that links lead to, as the open `.provision/` says; empty where it doesn't."""
    return (read_file(folder, LINKS, LINKS) or b"").removesuffix(b"\n")


def retarget_links(rootfs: int, folder: int, new: bytes) -> int:
    """Change all links of proot in an open rootfs, which was moved, to its path `new`; return how many there are.

    Each is replaced by one rename, and LINKS in the open `folder` at last: where this ends early, the next start of
    start.sh changes the rest. Raises OSError.
    """
    former, count, new_name = read_linked_rootfs(folder), 0, f"{NEW_LINK}.{os.getpid()}"
    try:
        state = os.stat(LINK_FOLDER, dir_fd=rootfs, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(state.st_mode):
        return 0
    for file in filter(None, walk(rootfs, closed="open")):
        if stat.S_ISLNK(file.stat.st_mode):
            target = os.readlink(file.name, dir_fd=file.directory)
            changed = retargeted(target, filter(None, [former]), new)
            if changed != target:
                with suppress(FileNotFoundError):
                    os.unlink(new_name, dir_fd=folder)  # left by a killed process
                os.symlink(changed, new_name, dir_fd=folder)
                os.rename(new_name, file.name, src_dir_fd=folder, dst_dir_fd=file.directory)
            count += is_link(target)
    replace_in(folder, LINKS, new + b"\n", 0o644)
    return count
