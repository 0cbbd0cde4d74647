"""Helper programs that store credentials: `docker-credential-NAME ACTION` (protocol of docker-credential-helpers)."""

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
"""How long a helper may take. Some ask the user to unlock a key ring."""

_ANSWER_LIMIT = 1 << 20


def is_installed(name: str) -> bool:
    """Return whether the program of the helper `name` is on PATH."""
    return shutil.which(f"docker-credential-{name}") is not None


def fetch(name: str, server: str) -> tuple[str, str] | None:
    """Return the user name and the secret that the helper `name` has for `server`, or None.

    Raises NotAllowed for a helper that fails or isn't installed.
    """
    answer = _run(name, "get", server)
    if answer is None:
        return None
    try:
        value = json.loads(answer)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _failure(name, "get", "it doesn't answer as the protocol says") from None
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise _failure(name, "get", "it gives no secret")
    return username, secret


def store(name: str, server: str, username: str, secret: str) -> None:
    """Store a user name and a secret for `server` in the helper `name`. Raises NotAllowed."""
    _run(name, "store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))


def erase(name: str, server: str) -> bool:
    """Erase the secret for `server` in the helper `name`. Return whether there was one. Raises NotAllowed."""
    if _run(name, "get", server) is None:
        return False
    return _run(name, "erase", server) is not None


def _run(name: str, action: str, text: str) -> bytes | None:
    """Run a helper with `text` on standard input; return its output, or None if it has no such entry.

    Secrets are passed on standard input only. Raises NotAllowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise NotAllowed(f"{printable(name)[:100]!r} can't be the name of a credential helper", "write NAME alone")
    try:
        process = subprocess.Popen(
            [f"docker-credential-{name}", action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that its children can be killed too
        )
    except OSError as error:
        if not is_installed(name):  # a directory of PATH that may not be searched is a PermissionError
            raise NotAllowed(
                f"the credential helper docker-credential-{name} is not installed",
                "install it, or take it out of the file",
            ) from None
        raise _failure(name, action, error.strerror or "it can't be started") from None
    status, answer = _communicate(process, text)
    if status == 0 and len(answer) <= _ANSWER_LIMIT:
        return answer
    message = answer[:1000].decode(errors="replace").strip()
    if status and "credentials not found" in message.lower():
        return None
    if status == -signal.SIGKILL:
        raise _failure(name, action, f"it doesn't end within {HELPER_SECONDS:.0f} seconds")
    line = message.partition("\n")[0][:200]
    is_safe = status and line and not re.search("secret|password|token", message, re.IGNORECASE) and text not in message
    raise _failure(name, action, printable(line) if is_safe else f"exit status {status}")


def _communicate(process: subprocess.Popen[bytes], text: str) -> tuple[int, bytes]:
    """Send `text` to a helper; return its exit status and output. It is killed at its limits of time and output."""

    def kill() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(HELPER_SECONDS, kill)
    timer.daemon = True
    timer.start()
    try:
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(text.encode())
                process.stdin.close()
            answer = process.stdout.read(_ANSWER_LIMIT + 1)
            if len(answer) > _ANSWER_LIMIT:
                kill()
            process.wait()
    except BaseException:
        kill()
        raise
    finally:
        timer.cancel()
    return process.returncode, answer


def _failure(name: str, action: str, why: str) -> NotAllowed:
    """Return the error for a helper whose `action` fails because of `why`."""
    hint = f"see what `docker-credential-{name} list` says, or take it out of the file that names it"
    return NotAllowed(f"the credential helper docker-credential-{name} fails at {action}: {why}", hint)
