"""What start.sh writes on the host, where another user, or the owner of the directory, has put links in its way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.attacks_host.protection import protects
from tests.support.containers import Container, choosing, is_roots, make_container, starter
from tests.support.exploits import CANARY
from tests.support.leftovers import processes_left
from tests.support.tools import user_id


def as_starter(runtime: str) -> dict[str, Any]:
    """Return options of who starts a runtime; root is one whom the owner of the directory became, by sudo."""
    options = starter(runtime)
    if is_roots(runtime):
        options["env"] = {**options["env"], "SUDO_UID": str(user_id())}
    return options


def make_secret(place: Path, runtime: str) -> Path:
    """Make a file of the user who starts the runtime."""
    secret = place / "secret"
    secret.write_text(CANARY)
    secret.chmod(0o600)
    owner = 0 if is_roots(runtime) else user_id()
    if os.geteuid() == 0:
        os.chown(secret, owner, owner)
    return secret


def wait_for(target: Container) -> None:
    assert processes_left(target.directory) == []


@protects("proot", "userns", "chroot", users=())
def test_the_log_is_not_written_through_a_link(place: Path, runtime: str) -> None:
    target, secret = make_container(place / "container"), make_secret(place, runtime)
    (target.directory / ".provision/log").symlink_to(secret)
    target.run(runtime, "--detach", "sh", "-c", "echo by the guest", **as_starter(runtime))
    wait_for(target)
    assert secret.read_text() == CANARY


@protects("chroot", users=())
def test_the_log_is_not_written_through_a_hard_link(place: Path, runtime: str) -> None:
    """Not every kernel refuses users hard links to other users' files (protected_hardlinks)."""
    target, secret = make_container(place / "container"), make_secret(place, runtime)
    (target.directory / ".provision/log").hardlink_to(secret)
    target.run(runtime, "--detach", "sh", "-c", "echo by the guest", **as_starter(runtime))
    wait_for(target)
    assert secret.read_text() == CANARY


@protects("proot", "userns", "chroot", users=())
def test_session_files_are_not_written_through_a_link(place: Path, runtime: str) -> None:
    target, secret = make_container(place / "container"), make_secret(place, runtime)
    sessions = target.directory / ".provision/run"
    sessions.mkdir()
    os.chown(sessions, user_id(), user_id())
    script = 'ln -s "$1" "$2/$$" && shift 2 && exec "$@"'
    words: list[str | Path] = ["sh", "-c", script, "sh", secret, sessions, target.script, *choosing(runtime), "true"]
    subprocess.run(words, check=False, capture_output=True, timeout=200, **as_starter(runtime))
    assert secret.read_text() == CANARY


@protects("proot", "userns", "chroot", users=())
def test_the_log_in_tmpdir_has_no_predictable_name(place: Path, runtime: str) -> None:
    """Another user who guesses the number of a process can put a link there, where the kernel doesn't refuse it."""
    target, secret = make_container(place / "container"), make_secret(place, runtime)
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (target.directory / ".provision/log").mkdir()  # so that it can't be written to
    options = as_starter(runtime)
    options["env"] = {**options["env"], "TMPDIR": str(shared)}
    script = 'ln -s "$1" "$TMPDIR/start.$$.log" && shift && exec "$@"'
    words: list[str | Path] = [
        "sh",
        "-c",
        script,
        "sh",
        secret,
        target.script,
        *choosing(runtime),
        "--detach",
        "sh",
        "-c",
        "echo guest",
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=200, **options)
    wait_for(target)
    assert secret.read_text() == CANARY, done
