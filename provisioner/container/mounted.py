"""What is mounted in a provisioned directory, as any process sees it, which must not be removed or moved with it."""

from __future__ import annotations

from pathlib import Path

from provisioner.container_files import FOLDER
from provisioner.errors import TargetExists, machine_errors
from provisioner.filesystem.locks import process_name
from provisioner.filesystem.mount_uses import MountUse, find_mount_uses
from provisioner.filesystem.mounts import read_mounts
from provisioner.terminal.escaping import printable, shell_word


def check_not_mounted(opened: int, directory: Path, action: str, *, only_here: bool = False) -> None:
    """Raise TargetExists where something is mounted in `directory`, which is `opened`, or a part of it elsewhere.

    All processes are asked that can be seen; with `only_here` this one. Raises MachineError where not even this one's
    mounts can be read.
    """
    with machine_errors("read what is mounted, in /proc"):
        uses = [use for use in find_mount_uses(opened) if not use.pid or not only_here]
    if not uses:
        return
    first, shown = uses[0], printable(str(directory))
    where = f" ({len(uses) - 1} more)" if len(uses) > 1 else ""
    what = _describe_mount(first, shown)
    hint = f"unmount it first: umount {shell_word(first.point)}"
    if first.pid:
        hint = f"end that process, or as root: nsenter -m -t {first.pid} umount {shell_word(first.point)}"
    raise TargetExists(f"can't {action} {shown}: {what}{where}", hint)


def mount_hint(directory: Path) -> str:
    """Return what to add to the hint for a directory that is no container, where a mount on it may hide one."""
    points = {str(directory), str(directory / FOLDER)} - {"/"}
    mount = next((mount for mount in reversed(read_mounts()) if mount.point in points), None)
    if mount is None:
        return ""
    what = f"{printable(mount.source)} ({mount.type}) is mounted on {printable(mount.point)}"
    return f"; {what}: if that hides a container, unmount it first: umount {shell_word(mount.point)}"


def _describe_mount(use: MountUse, shown: str) -> str:
    by = f", as the process {use.pid} ({printable(process_name(use.pid))}) sees it" if use.pid else ""
    if use.is_source:
        return f"a part of {shown} is mounted at {printable(use.point)}{by}"
    return f"something is mounted at {printable(use.point)}{by}"
