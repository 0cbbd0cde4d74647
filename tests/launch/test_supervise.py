"""Functions of scripts/start/supervise.sh, each called by a shell without a container."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioner.launch.script import options_reader
from tests.support.containers import SHELLS
from tests.support.tools import need


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    need(SHELLS[request.param][0])
    return SHELLS[request.param]


def output_of(shell: list[str], tmp_path: Path, commands: str) -> list[str]:
    """Define the functions of start.sh, run the commands, and return the lines that they print."""
    script = tmp_path / "commands.sh"
    script.write_bytes(options_reader() + commands.encode())
    done = subprocess.run([*shell, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_signal_waits_while_another_one_is_forwarded(shell: list[str], tmp_path: Path) -> None:
    commands = """
        signal_guest() {
            echo "begin $1"
            case $1 in
                HUP) kill -s USR1 $$ && kill -s TERM $$ ;;
                USR1) kill -s USR2 $$ ;;
            esac
            echo "end $1"
        }
        child=$$
        begin_supervision
        kill -s HUP $$
        true
    """
    expected = [f"{moment} {name}" for name in ("HUP", "USR1", "TERM", "USR2") for moment in ("begin", "end")]
    assert output_of(shell, tmp_path, commands) == expected
