"""What runs from a provisioned directory: it is stopped, or in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provisioner.container.processes import Process, find_processes
from provisioner.container.sessions import find_sessions
from provisioner.container_files import SCRIPT
from provisioner.errors import MachineError, TargetExists
from provisioner.filesystem.locks import process_name
from provisioner.terminal.escaping import printable, shell_word

_STOP_SECONDS = 60
"""How long start.sh --stop may take: it gives a container ten seconds before it kills it."""
_SIGNAL_SECONDS = 3.0
"""How long processes that start.sh doesn't know may take to end after a signal."""
_MOST_NAMED = 5


def running_in(directory: Path) -> list[int]:
    """Return the numbers of the processes that run from a directory, and of the start.sh that have started them."""
    processes = find_processes([directory])[directory]
    return sorted({*processes, *find_sessions(directory, processes)})


def describe_processes(pids: Sequence[int]) -> str:
    """Return the numbers and names of processes as a text, of some of them if there are many."""
    shown = ", ".join(f"{pid} {printable(process_name(pid))}".strip() for pid in pids[:_MOST_NAMED])
    return shown if len(pids) <= _MOST_NAMED else f"{shown} and {len(pids) - _MOST_NAMED} more"


def describe_running(directory: Path, shown: str, what: str) -> list[str]:
    """Return lines about what runs from a directory while `what` is made of it, such as "copy"; none for nothing."""
    if not (pids := running_in(directory)):
        return []
    return [
        f"this runs from {shown}: {describe_processes(pids)}",
        f"  what it writes meanwhile may be in the {what} in part",
    ]


def check_not_running(directory: Path, option: str = "") -> None:
    """Raise TargetExists that names what runs from a directory; `option` would have stopped it."""
    if pids := running_in(directory):
        stop = shell_word(str(directory / SCRIPT))
        raise TargetExists(
            f"processes run from {printable(str(directory))}: {describe_processes(pids)}",
            f"stop them first: {stop} --stop{f'; or add {option}' if option else ''}",
        )


def stop_or_refuse(directory: Path, *, stop: bool) -> None:
    """Stop what runs from `directory`, where `stop` is true.

    Raises TargetExists that names what still runs, and MachineError where something can't be stopped.
    """
    if stop:
        stop_running(directory)
    check_not_running(directory, "--stop-running")


def stop_running(directory: Path, *, is_trusted: bool = False) -> None:
    """End all that runs from a directory: by its start.sh --stop, what is left by SIGTERM, and SIGKILL at last.

    `is_trusted` is whether the user has lifted the rule that nobody else may write to it. Raises MachineError where
    something goes on.
    """
    script = directory / SCRIPT
    if script.is_file() and find_sessions(directory, ()):
        with suppress(OSError, subprocess.TimeoutExpired):
            command = [str(script), *(["--trust-dir"] if is_trusted else []), "--stop"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_STOP_SECONDS, check=False)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (pids := running_in(directory)):
            return
        if not (ending := [pid for pid in pids if _send(pid, number)]):
            break
        _wait_for(ending)
    if pids := running_in(directory):
        raise MachineError(f"can't stop {describe_processes(pids)}", "they may be somebody else's: stop them as root")


def _send(pid: int, number: signal.Signals) -> bool:
    """Send a signal, and return whether the process may get it from this user, or has ended already."""
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    except PermissionError:
        return False
    return True


def _wait_for(pids: Sequence[int]) -> None:
    """Return when the processes have ended, or after _SIGNAL_SECONDS."""
    deadline = time.monotonic() + _SIGNAL_SECONDS
    while any(Process.of(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
