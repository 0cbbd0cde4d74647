"""What a provisioned directory is used by: processes that run from it, and mounts that concern it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioner.container.processes import Process, find_processes
from provisioner.container.sessions import find_sessions
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.locks import process_name
from provisioner.filesystem.mount_uses import MountUse, find_mount_uses
from provisioner.terminal.escaping import printable

_STOP_SECONDS = 60
"""How long start.sh --stop may take: it gives a container ten seconds before it kills it."""
_SIGNAL_SECONDS = 3.0
"""How long processes that start.sh doesn't know may take to end after a signal."""
_SHOWN = 5


def running_in(directory: Path) -> list[int]:
    """Return the numbers of the processes that run from a directory, and of the start.sh that have started them."""
    processes = find_processes([directory])[directory]
    return sorted({*processes, *find_sessions(directory, processes)})


def describe_processes(pids: Sequence[int]) -> str:
    """Return the numbers and names of processes as a text, of some of them if there are many."""
    shown = ", ".join(f"{pid} ({printable(process_name(pid)) or 'ended'})" for pid in pids[:_SHOWN])
    return shown if len(pids) <= _SHOWN else f"{shown} and {len(pids) - _SHOWN} more"


def check_not_running(directory: Path, action: str, hint: str = "") -> None:
    """Raise TargetExists where something runs from a directory, which is to be the object of `action`.

    `hint` is added to the error's.
    """
    if pids := running_in(directory):
        stop = shlex.quote(printable(str(directory / "start.sh")))
        raise TargetExists(
            f"can't {action} {printable(str(directory))} while this runs from it: {describe_processes(pids)}",
            f"stop it first: {stop} --stop{hint}",
        )


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
    hint = f"unmount it first: umount {shlex.quote(printable(first.point))}"
    if first.pid:
        hint = f"end that process, or as root: nsenter -m -t {first.pid} umount {shlex.quote(printable(first.point))}"
    raise TargetExists(f"can't {action} {shown}: {what}{where}", hint)


def _describe_mount(use: MountUse, shown: str) -> str:
    by = f", as the process {use.pid} ({printable(process_name(use.pid))}) sees it" if use.pid else ""
    if use.is_source:
        return f"a part of {shown} is mounted at {printable(use.point)}{by}"
    return f"something is mounted at {printable(use.point)}{by}"


def stop(directory: Path, *, is_trusted: bool = False) -> None:
    """End all that runs from a directory: by its start.sh --stop, what is left by SIGTERM, and SIGKILL at last.

    `is_trusted` is whether the user has lifted the rule that nobody else may write to it. Raises MachineError where
    something goes on.
    """
    script = directory / "start.sh"
    if script.is_file() and find_sessions(directory, ()):
        with suppress(OSError, subprocess.TimeoutExpired):
            command = [str(script), *(["--trust-dir"] if is_trusted else []), "--stop"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_STOP_SECONDS, check=False)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (pids := running_in(directory)):
            return
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, number)
        _wait_for(pids)
    if pids := running_in(directory):
        raise MachineError(f"can't stop {describe_processes(pids)}", "they may be somebody else's: stop them as root")


def _wait_for(pids: Sequence[int]) -> None:
    """Return when the processes have ended, or after _SIGNAL_SECONDS."""
    deadline = time.monotonic() + _SIGNAL_SECONDS
    while any(Process.of(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
