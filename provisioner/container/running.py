"""What runs from a directory that is to be replaced: it is stopped, or in the way."""

from __future__ import annotations

import subprocess
from pathlib import Path

from provisioner.container.processes import find_processes
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.locks import process_name
from provisioner.terminal.escaping import printable

_MOST_NAMED = 5


def stop_or_refuse(directory: Path, *, stop: bool) -> None:
    """Stop what runs from `directory` by its start.sh, where `stop` is true.

    Raises TargetExists that names what still runs, and MachineError where start.sh can't be run.
    """
    running = find_processes([directory])[directory]
    script = directory / "start.sh"
    if running and stop:
        with machine_errors(f"run {printable(str(script))} --stop"):
            done = subprocess.run([script, "--stop"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            text = printable(done.stderr.decode(errors="replace").strip()[:300])
            raise MachineError(f"{printable(str(script))} --stop failed: {text}", "stop it yourself, then try again")
        running = find_processes([directory])[directory]
    if running:
        named = ", ".join(f"{pid} {printable(process_name(pid))}".strip() for pid in running[:_MOST_NAMED])
        more = f" and {len(running) - _MOST_NAMED} more" if len(running) > _MOST_NAMED else ""
        raise TargetExists(
            f"processes run from {printable(str(directory))}: {named}{more}",
            f"stop them first: {printable(str(script))} --stop; or add --stop-running",
        )
