"""The terminal relay by itself, as this machine and qemu's other ones execute it."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.static_helper import ARCHITECTURES
from provisioner.launch.terminal_relay import terminal_relay
from tests.support.processes import children_of
from tests.support.programs import emulator
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def relay_words(architecture: str, folder: Path) -> list[str]:
    """The relay for that architecture, as words before its own."""
    path = folder / f"relay-{architecture}"
    path.write_bytes(terminal_relay(Platform("linux", architecture)))
    path.chmod(0o755)
    if architecture == host_platform().architecture:
        return [str(path)]
    return [emulator(architecture), str(path)]


@pytest.fixture(params=ARCHITECTURES)
def words(request: pytest.FixtureRequest, place: Path) -> list[str]:
    return relay_words(request.param, place)


@pytest.fixture
def native(place: Path) -> list[str]:
    return relay_words(host_platform().architecture, place)


def start(words: list[str], command: str) -> Terminal:
    return Terminal([*words, "yes", "/bin/sh", "-c", command, "no"], user=True)


def test_a_command_has_a_terminal_of_its_own(words: list[str]) -> None:
    screen = start(words, 'echo "$0 $(tty)"; read line; echo "got $line"; exit 7')
    screen.until(b"yes /dev/pts/")
    number = struct.unpack("I", fcntl.ioctl(screen.fd, 0x80045430, bytes(4)))[0]  # TIOCGPTN
    screen.until(b"\r\n")
    screen.type(b"a line\r")
    screen.until(b"got a line")
    assert os.path.exists(f"/dev/pts/{number}")
    assert screen.end() == 7


def test_a_signal_is_reported_as_shells_do(words: list[str]) -> None:
    assert start(words, "kill -9 $$").end() == 137


@pytest.mark.parametrize(("answer", "redirected"), [("2", "| cat"), ("1", "2>/dev/null"), ("12", "</dev/null")])
def test_some_streams_only(words: list[str], answer: str, redirected: str) -> None:
    """The new terminal is only written to, and this one processes what is written."""
    guest = 'trap "exit 6" INT; [ -t 1 ] && echo "1 is $0"; [ -t 2 ] && echo "2 is $0" >&2; while :; do sleep 0.1; done'
    command = f"{shlex.join([*words, answer, '/bin/sh', '-c', guest, 'no'])} {redirected}"
    screen = Terminal(["bash", "-c", f"set -o pipefail; {command}; exit $?"], user=True)
    modes = termios.tcgetattr(screen.fd)
    for number in answer:
        screen.until(f"{number} is {answer}\r\n".encode())
    assert termios.tcgetattr(screen.fd) == modes
    screen.type(b"\x03")
    assert screen.end() in (6, 130, -signal.SIGINT)  # cat ends by it, and perhaps the shell


def test_signals_and_keys_reach_the_command(words: list[str]) -> None:
    screen = start(words, "trap 'exit 41' TERM; echo ready; while :; do sleep 0.02; done")
    screen.until(b"ready")
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.end() == 41
    screen = start(words, "echo ready; exec sleep 60")
    screen.until(b"ready")
    before = termios.tcgetattr(screen.fd)
    assert not before[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    screen.type(b"\x03")
    assert screen.end() == 130


@pytest.mark.parametrize(("answer", "user"), [("yes", True), ("12", False), ("12", True)])
def test_it_ends_while_its_screen_is_stopped(words: list[str], answer: str, user: bool) -> None:
    """By Ctrl-S, or as by a connection that hangs: nobody reads the terminal that is raw. A user doesn't own it."""
    guest = "echo ready; read line; while :; do echo more than all terminals together hold; done"
    screen = Terminal([*words, answer, "/bin/sh", "-c", guest, "no"], user=user)
    screen.until(b"ready")
    screen.type(b"\n")
    if answer == "12":
        screen.until(b"more")
        screen.type(b"\x13")
    assert not screen.ends_within(1)
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.ends_within(60)
    assert screen.end() == 143


def test_it_ends_while_its_screen_is_stopped_after_the_command(words: list[str]) -> None:
    guest = "echo ready; read line; seq 1 2000; exit 9"
    screen = Terminal([*words, "12", "/bin/sh", "-c", guest, "no"], user=False)
    screen.until(b"ready")
    screen.type(b"\x13\n")
    wait_until(lambda: not children_of(screen.pid))  # else the signal would end the command
    assert not screen.ends_within(1)
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.ends_within(60)
    assert screen.end() == 9


def test_a_screen_that_was_stopped_shows_all(words: list[str]) -> None:
    screen = Terminal([*words, "12", "/bin/sh", "-c", "echo ready; seq 1 30000; exit 9", "no"], user=False)
    screen.until(b"ready")
    screen.type(b"\x13")
    assert not screen.ends_within(1)
    screen.type(b"\x11")
    screen.until(b"29999\r\n30000\r\n")
    assert screen.end() == 9


def test_all_output_comes(words: list[str]) -> None:
    screen = start(words, "seq 1 50000; exit 9")
    screen.until(b"49999\r\n50000\r\n")
    assert screen.end() == 9


def test_all_output_comes_where_writing_does_not_wait(native: list[str]) -> None:
    program = "import os, sys; os.set_blocking(1, False); os.execv(sys.argv[1], sys.argv[1:])"
    screen = start([sys.executable, "-c", program, *native], "seq 1 300000; read x; echo got $x; exit 9")
    time.sleep(0.3)
    screen.until(b"299999\r\n300000\r\n")
    screen.type(b"a line\r")
    screen.until(b"got a line")
    assert screen.end() == 9


def test_output_of_others_at_the_end_has_a_bound(native: list[str]) -> None:
    """As of a background process that writes on and on."""
    screen = start(native, "trap '' HUP; yes & exit 5")
    assert screen.end() == 5


def test_what_can_t_be_executed(native: list[str]) -> None:
    for program, status in {"/nowhere/program": 127, "/etc/passwd": 126}.items():
        assert Terminal([*native, "yes", program, "-c", "x", "no"], user=True).end() == status
    assert subprocess.run([*native, "yes", "/bin/true"], check=False).returncode == 125


def test_without_a_terminal_it_becomes_the_command(native: list[str]) -> None:
    command = [*native, "yes", "/bin/sh", "-c", "echo $0; exit 3", "no"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "no\n")


def test_where_sigchld_is_ignored_the_status_is_known(native: list[str]) -> None:
    words = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *native]
    assert start(words, "exit 4").end() == 4


def test_other_machines_have_none() -> None:
    with pytest.raises(MachineError):
        terminal_relay(Platform("linux", "s390x"))
