"""Runs a command again as root of a user namespace that has this user's subordinate ids (user_namespaces(7)).

Files of a container that was started with `--ids many` belong to these ids, and nobody else can read or remove them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import provisioner
from provisioner.errors import MachineError
from provisioner.terminal.escaping import printable

_HINT = "do it as root; or install newuidmap and newgidmap (apt install uidmap) and util-linux 2.38"


def run_with_subordinate_ids(directory: str, owners: Iterable[int], words: list[str]) -> int:
    """Run `provision WORDS` in such a namespace and return its exit status.

    `owners` are those of files in `directory`. Raises MachineError unless all of them are in the namespace.
    """
    unshare = [shutil.which("unshare") or "unshare", "-U", "-r", "--map-auto", "--"]
    ranges = _mapped_users(unshare)
    strangers = [owner for owner in owners if not any(owner in known for known in ranges)]
    if strangers:
        what = f"files in {printable(directory)} belong to the user {strangers[0]}"
        if ranges:
            raise MachineError(f"{what}, who isn't one of your subordinate ids", f"as root: sudo provision {words[0]}")
        raise MachineError(f"{what}, and there is no user namespace with more ids than your own here", _HINT)
    # The interpreter finds this package where it is, whatever the working directory is.
    path = [str(Path(provisioner.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([*unshare, sys.executable, "-P", "-m", "provisioner", *words], env=env, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _mapped_users(unshare: list[str]) -> list[range]:
    """Return the users that such a namespace has, as they are outside of it; none where it can't be made."""
    try:
        done = subprocess.run([*unshare, "cat", "/proc/self/uid_map"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    lines = [line.split() for line in done.stdout.splitlines()] if not done.returncode else []
    return [range(int(outer), int(outer) + int(count)) for _, outer, count in lines]
