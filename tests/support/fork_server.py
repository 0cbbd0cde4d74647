"""Runs `provision` in forks of a process that has imported it, a tenth of the work of a new process.

Each run is a process of its own with its user, its environment, its directory and its standard streams, as after
`python -m provisioner`; only what Python does before the first line of provision is done once.
"""

from __future__ import annotations

import io
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import fork_program

TIMEOUT = 240
"""Seconds after which a run is killed."""
LONGEST = 100_000
"""Bytes of a request. A longer one might not fit into the buffer of the socket."""
PIPES = {"text": True, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
"""The options of subprocess for the standard streams of each run."""

# What Python and the C library read only when they start.
_READ_AT_START = re.compile("GCONV_|GLIBC_|LANG|LC_|LD_|LOCPATH|MALLOC_|PYTHON|TZ")


class ForkServer:
    """A process that runs `provision` in forks of itself, one after the other."""

    def __init__(self, python: str, options: Mapping[str, Any]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = Path(fork_program.__file__).read_text()
            command = [python, "-c", program, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, **{"cwd": "/", **options}
            )

    def run(self, request: bytes) -> tuple[int, str, str]:
        """Run a command; return its exit status, minus a signal's number if one ended it, and what it printed."""
        pipes = [os.pipe() for _ in range(3)]
        try:
            socket.send_fds(self._control, [request], [writing for _, writing in pipes])
        finally:
            for _, writing in pipes:
                os.close(writing)
        output, errors, status = (io.TextIOWrapper(io.BytesIO(data)).read() for data in _read([p[0] for p in pipes]))
        return int(status.split()[1]), output, errors

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self._process.wait()


_servers: dict[object, ForkServer] = {}


def server_pids() -> list[int]:
    """Return the IDs of the processes of servers."""
    return [server.pid for server in _servers.values()]


def close_servers() -> None:
    """End all processes of servers."""
    while _servers:
        _servers.popitem()[1].close()


def run_by_server(
    command: Sequence[str], options: Mapping[str, Any], **request: object
) -> subprocess.CompletedProcess[str] | None:
    """Run `[PYTHON, "-m", "provisioner", WORD..]`. None for what only subprocess can do: other streams, say."""
    python, _, _, *words = command
    rest = {name: value for name, value in options.items() if PIPES.get(name, value) != value or name not in PIPES}
    user: dict[str, Any] = {name: rest.pop(name) for name in ("user", "group", "extra_groups") if name in rest}
    env, cwd = rest.pop("env"), rest.pop("cwd", os.getcwd())
    if rest or any("\0" in word for word in words):
        return None
    content = {"words": words, "env": env, "cwd": cwd, "umask": _umask(), **request}
    message = json.dumps(content, default=os.fspath).encode()
    if len(message) > LONGEST:
        return None
    at_start = {name: value for name, value in env.items() if _READ_AT_START.match(name)}
    key = (python, *sorted(at_start.items()), repr(user))
    if key not in _servers:
        _servers[key] = ForkServer(python, {**user, "env": env})
    return subprocess.CompletedProcess(list(command), *_servers[key].run(message))


def _umask() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:"))
    return int(line.split()[1], 8)


def _read(descriptors: Sequence[int]) -> list[bytes]:
    """Read pipes to their ends and close them. The last one has the ID of the process that has TIMEOUT seconds."""
    data = dict.fromkeys(descriptors, b"")
    deadline = time.monotonic() + TIMEOUT
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                with suppress(ProcessLookupError):
                    os.kill(int(data[descriptors[-1]].split()[0]), signal.SIGKILL)
                raise TimeoutError(f"provision takes longer than {TIMEOUT} seconds")
            for key, _ in ready:
                if chunk := os.read(key.fd, 1 << 16):
                    data[key.fd] += chunk
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [data[descriptor] for descriptor in descriptors]
