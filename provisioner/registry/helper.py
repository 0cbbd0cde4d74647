"""Programs that keep credentials, by the protocol of docker-credential-helpers: `docker-credential-NAME ACTION`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import suppress

from provisioner.errors import NotAllowed
from provisioner.terminal.escaping import printable

HELPER_SECONDS = 60.0
"""How long a helper may take: some ask the user to unlock something."""

_ANSWER_LIMIT = 1 << 20


def is_installed(name: str) -> bool:
    """Whether there is a program for the helper `name`."""
    return shutil.which(f"docker-credential-{name}") is not None


def fetch(name: str, server: str) -> tuple[str, str] | None:
    """The user name and the secret that the helper `name` keeps for `server`; None where it keeps nothing.

    Raises NotAllowed for a helper that fails or isn't there.
    """
    answer = _run(name, "get", server)
    if answer is None:
        return None
    try:
        value = json.loads(answer)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _failed(name, "get", "it doesn't answer as the protocol says") from None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise _failed(name, "get", "it gives no secret")
    return username, secret


def store(name: str, server: str, username: str, secret: str) -> None:
    """Have the helper `name` keep a secret. Raises NotAllowed."""
    _run(name, "store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))


def erase(name: str, server: str) -> bool:
    """Have the helper `name` forget what it keeps for `server`; whether there was something. Raises NotAllowed."""
    if _run(name, "get", server) is None:
        return False
    return _run(name, "erase", server) is not None


def _run(name: str, action: str, given: str) -> bytes | None:
    """What the helper prints; None when it says that it keeps nothing of that name. Secrets pass by stdin only."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise NotAllowed(f"{printable(name)[:100]!r} can't be the name of a credential helper", "write NAME alone")
    try:
        process = subprocess.Popen(
            [f"docker-credential-{name}", action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that all of it can be ended
        )
    except (FileNotFoundError, NotADirectoryError):
        raise NotAllowed(
            f"the credential helper docker-credential-{name} is not installed", "install it, or take it out of the file"
        ) from None
    except OSError as error:
        raise _failed(name, action, error.strerror or "it can't be started") from None
    status, answer = _conversation(process, given)
    if status == 0 and len(answer) <= _ANSWER_LIMIT:
        return answer
    said = answer[:1000].decode(errors="replace").strip()
    if status and "credentials not found" in said.lower():
        return None
    if status == -signal.SIGKILL:
        raise _failed(name, action, f"it doesn't end, nor within {HELPER_SECONDS:.0f} seconds")
    line = said.partition("\n")[0][:200]
    safe = status and line and not re.search("secret|password|token", said, re.IGNORECASE) and given not in said
    raise _failed(name, action, printable(line) if safe else f"exit status {status}")


def _conversation(process: subprocess.Popen[bytes], given: str) -> tuple[int, bytes]:
    """The exit status and the output of a helper that is told `given`; it is ended when it takes or says too much."""

    def end() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(HELPER_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(given.encode())
                process.stdin.close()
            answer = process.stdout.read(_ANSWER_LIMIT + 1)
            if len(answer) > _ANSWER_LIMIT:
                end()
            process.wait()
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()
    return process.returncode, answer


def _failed(name: str, action: str, why: str) -> NotAllowed:
    mend = f"see what `docker-credential-{name} list` says, or take it out of the file that names it"
    return NotAllowed(f"the credential helper docker-credential-{name} fails at {action}: {why}", mend)
