"""The program of a ForkServer: `python -c PROGRAM DESCRIPTOR`. It needs nothing of the tests.

A request on the socket DESCRIPTOR is a JSON object with the descriptors of standard output, standard error and a pipe
for the exit status. A fork of this process becomes the command; in it, `serve` returns.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import signal
import socket
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import provisioner


def import_all() -> None:
    """Import what commands import when they need it."""
    for module in pkgutil.walk_packages(provisioner.__path__, "provisioner."):
        import_module(module.name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request. Return it in the fork, which has the standard streams that came with it."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            os._exit(0)
        out, err, status = descriptors
        pid = os.fork()
        if pid == 0:
            os.dup2(out, 1)
            os.dup2(err, 2)
            control.detach()
            os.closerange(3, 64)
            request: dict[str, Any] = json.loads(message)
            return request
        os.close(out)
        os.close(err)
        os.write(status, b"%d\n" % pid)
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.close(status)


def become(request: dict[str, Any]) -> None:
    """Be a new process with the environment, the directory and the words of a request."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    for name, descriptor in (("stdout", 1), ("stderr", 2)):  # those at hand were made for other files
        old = getattr(sys, name)
        new = open(descriptor, "w", encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        new.reconfigure(line_buffering=old.line_buffering)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.path[0] = os.getcwd()
    sys.argv = [f"{provisioner.__path__[0]}/__main__.py", *request["words"]]
    if "steps" in request:
        count_steps(**request["steps"])


def count_steps(events: list[str], killed_before: int | None, counter: str | None) -> None:
    """Kill this process before its step of that number, and write the number of its steps to the file `counter`.

    A step is one of these audit events of Python (sys.addaudithook).
    """
    number = 0

    def step(event: str, _: object) -> None:
        nonlocal number
        if event in events:
            number += 1
            if number == killed_before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    if counter:
        atexit.register(lambda: Path(counter).write_text(str(number)))


def leave(status: int) -> NoReturn:
    """End as Python does, but without taking apart what was imported, which the fork would copy for that."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    import_all()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from provisioner.__main__ import main

    try:
        ended: object = main()
    except SystemExit as exit:  # by --help, say
        ended = exit.code
    if isinstance(ended, int):
        leave(ended)
    sys.exit(ended)  # type: ignore[arg-type]
