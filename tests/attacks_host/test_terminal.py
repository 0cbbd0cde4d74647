"""The caller's terminal: nothing is typed into it for the shell that started the guest."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.attacks_host.protection import protects
from tests.support.containers import choosing, is_roots, starter
from tests.support.hostile import PROGRAM, PYTHON, Host
from tests.support.terminal import Terminal


def in_a_shell(host: Host, runtime: str, user: str, *arguments: str) -> bytes:
    """Start a guest from an interactive shell on its own terminal; return what was shown after the guest's end."""
    target = host.container(runtime)
    starter(runtime)
    command = [str(target.script), *choosing(runtime), "--user", user, "--", PYTHON, PROGRAM, *arguments]
    screen = Terminal(["sh"], user=not is_roots(runtime))
    screen.until(b"PROMPT")
    screen.type(f"{shlex.join(command)}; echo 'ended 'here\n".encode())
    screen.until(b"ended here")
    screen.type(b"echo 'all 'typed\n")
    screen.until(b"all typed")
    screen.type(b"exit\n")
    screen.end()
    return screen.shown


@pytest.mark.parametrize("bits", [0, 64, 32], ids=["usual", "high bits", "32-bit call"])
@protects("userns", "chroot")
def test_nothing_is_typed_into_the_caller_s_shell(host: Host, runtime: str, user: str, bits: int) -> None:
    typed = Path(host.outside, f"typed-{runtime}-{user}-{bits}")
    in_a_shell(host, runtime, user, "type", str(bits), f"touch {typed}")
    assert not typed.exists()
    assert host.container(runtime).script.exists()


@protects("userns", "chroot")
def test_the_console_s_selection_can_t_be_pasted(host: Host, runtime: str, user: str) -> None:
    target = host.container(runtime)
    done = target.run(runtime, "--user", user, "--", PYTHON, PROGRAM, "console")
    assert done.stdout == b"EPERM\n"


@protects("userns", "chroot")
def test_other_terminals_of_the_user_can_t_be_read(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "other_terminal").got is None
