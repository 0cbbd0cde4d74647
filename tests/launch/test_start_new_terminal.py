"""A user other than root at a terminal: in chroot and with many ids the command gets its own terminal, as in docker."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, starter
from tests.support.processes import children_of
from tests.support.subordinate import with_subordinate_ids
from tests.support.terminal import COUNTING_INTERRUPTS, Terminal, bash_at_terminal
from tests.support.tools import need
from tests.support.waiting import wait_until

OPENED = (
    "echo out >/dev/stdout; echo error >/dev/stderr; echo terminal >/dev/tty; read line </dev/stdin; echo got $line"
)
CLOSED = "echo closed >/dev/stdout || exit 3"


@pytest.fixture
def joe(container: Container) -> Callable[..., Terminal]:
    """Start a shell's command in chroot as another user than root."""
    starter("chroot")

    def start(command: str, *options: str, shell: tuple[str, ...] = ()) -> Terminal:
        words: list[str | Path] = [*shell, container.script, "--runtime", "chroot", "--user", "joe", *options]
        return Terminal([*words, "sh", "-c", command], user=False)

    return start


def opens_all(screen: Terminal) -> None:
    """Expect what the command `OPENED` prints."""
    for name in (b"out", b"error", b"terminal"):
        screen.until(name + b"\r\n")
    screen.type(b"a line\r")
    screen.until(b"got a line\r\n")


def stat_terminal(descriptor: int) -> os.stat_result:
    """What the disk says of the terminal whose other end is `descriptor`."""
    number = struct.unpack("I", fcntl.ioctl(descriptor, 0x80045430, bytes(4)))[0]  # TIOCGPTN
    return os.stat(f"/dev/pts/{number}")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_user_can_open_the_standard_streams(joe: Callable[..., Terminal], shell: str) -> None:
    need(SHELLS[shell][0])
    screen = joe(f"{OPENED}; exit 7", shell=tuple(SHELLS[shell]))
    opens_all(screen)
    assert screen.end() == 7


def test_the_terminal_is_the_user_s_and_the_caller_s_stays(joe: Callable[..., Terminal]) -> None:
    screen = joe("tty; id -u; busybox stat -c 'owner %u' /dev/console; echo ready; read line")
    screen.until(b"/dev/console")
    screen.until(b"1000")
    screen.until(b"owner 1000")
    screen.until(b"ready")
    found = stat_terminal(screen.fd)
    screen.type(b"\r")
    assert screen.end() == 0
    assert found.st_uid == 0


def test_the_modes_are_restored(container: Container) -> None:
    starter("chroot")
    screen = bash_at_terminal()
    before = termios.tcgetattr(screen.fd)
    raw = "busybox stty raw; exit 5"
    for end, typed in {"exit 3": b"", "kill -9 $$": b"", "exec sleep 60": b"\x03", raw: b""}.items():
        screen.type(f"{container.script} --runtime chroot --user joe sh -c 'echo rea''dy; {end}'\n".encode())
        screen.until(b"ready")
        time.sleep(0.2)
        screen.type(typed)
        screen.until(b"PROMPT")
        assert termios.tcgetattr(screen.fd) == before
    screen.type(b"exit 6\n")
    assert screen.end() == 6


@pytest.mark.parametrize(("key", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)])
def test_keys_that_send_signals(joe: Callable[..., Terminal], key: bytes, number: int) -> None:
    screen = joe("echo ready; exec sleep 60")
    screen.until(b"ready")
    time.sleep(0.2)
    screen.type(key)
    assert screen.end() == 128 + number


def test_control_c_reaches_the_command_once(joe: Callable[..., Terminal]) -> None:
    screen = joe(COUNTING_INTERRUPTS)
    screen.until(b"ready")
    screen.type(b"\x03")
    assert screen.end() == 41


@pytest.mark.parametrize("name", ["HUP", "TERM", "USR1", "USR2", "INT", "QUIT"])
def test_signals_are_forwarded(joe: Callable[..., Terminal], name: str) -> None:
    screen = joe(f"trap 'exit 41' {name}; echo ready; while :; do sleep 0.03; done")
    screen.until(b"ready")
    os.kill(screen.pid, signal.Signals[f"SIG{name}"])
    assert screen.end() == 41


def test_the_size_passes_through(joe: Callable[..., Terminal]) -> None:
    screen = joe("trap 'busybox stty size; exit 4' WINCH; busybox stty size; echo ready; while :; do sleep 0.02; done")
    screen.until(b"ready")
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    screen.until(b"33 101")
    assert screen.end() == 4


def test_the_end_of_the_input(joe: Callable[..., Terminal]) -> None:
    screen = joe("echo ready; cat; echo over")
    screen.until(b"ready")
    screen.type(b"some text\r\x04")
    screen.until(b"some text\r\nsome text\r\nover")
    assert screen.end() == 0


def test_all_of_a_long_output_comes(joe: Callable[..., Terminal]) -> None:
    screen = joe("busybox seq 1 100000; exit 9")
    text = b"".join(b"%d\r\n" % number for number in range(1, 100_001))
    screen.until(text[-200:])
    assert screen.end() == 9


def test_long_input_that_is_read_late_stops_no_output(joe: Callable[..., Terminal]) -> None:
    """Neither waits for the other: the command reads when it has written."""
    screen = joe("busybox stty raw -echo; echo ready; sleep 0.5; busybox seq 1 30000; head -c 100000 | wc -c; exit 5")
    screen.until(b"ready")
    os.set_blocking(screen.fd, False)
    rest = b"x" * 100_000
    deadline = time.monotonic() + 60
    shown = b""
    while rest or b"100000" not in shown:
        assert time.monotonic() < deadline
        with suppress(BlockingIOError):
            rest = rest[os.write(screen.fd, rest[:1000]) :] if rest else rest
        with suppress(BlockingIOError):
            shown += os.read(screen.fd, 65536)
    os.set_blocking(screen.fd, True)
    assert screen.end() == 5


def test_a_shell_inside_has_job_control(joe: Callable[..., Terminal]) -> None:
    screen = joe("exec ash -i")
    screen.until(b"$ ")
    screen.type(b"sleep 60\r")
    screen.until_foreground("sleep", "60")
    screen.type(b"\x1a")
    screen.until(b"Stopped")
    screen.type(b"fg\r")
    screen.until(b"sleep 60")
    screen.until_foreground("sleep", "60")
    screen.type(b"\x03")
    screen.until(b"$ ")
    screen.type(b"exit 3\r")
    assert screen.end() == 3


def test_in_the_background_it_leaves_the_terminal_to_the_shell(container: Container) -> None:
    starter("chroot")
    screen = bash_at_terminal()
    screen.type(f"{container.script} --runtime chroot --user joe sh -c '{OPENED}; exit 7' &\n".encode())
    for name in (b"out", b"error", b"terminal"):
        screen.until(name + b"\r\r\n")  # the shell's terminal puts a second one in front of each newline
    screen.type(b"echo al''ive\n")
    screen.until(b"alive")
    # In the foreground it gets what is typed.
    screen.type(b"fg\n")
    screen.until(b"sh -c")
    time.sleep(0.5)
    screen.type(b"a line\r")
    screen.until(b"got a line")
    screen.until(b"PROMPT")
    screen.type(b"echo sta''tus $?\n")
    screen.until(b"status 7")
    screen.type(b"exit 9\n")
    assert screen.end() == 9


def test_a_relay_that_is_stopped_goes_on(container: Container) -> None:
    starter("chroot")
    screen = bash_at_terminal()
    before = termios.tcgetattr(screen.fd)
    screen.type(f"{container.script} --runtime chroot --user joe sh -c 'echo rea''dy; {OPENED}; exit 7'\n".encode())
    screen.until(b"terminal\r\n")
    (relay,) = children_of(screen.pid)
    time.sleep(0.2)
    os.kill(relay, signal.SIGTSTP)
    screen.until(b"Stopped")
    screen.until(b"PROMPT")
    assert termios.tcgetattr(screen.fd) == before
    screen.type(b"fg\n")
    screen.until(b"sh -c")
    time.sleep(0.2)
    screen.type(b"a line\r")
    screen.until(b"got a line")
    screen.until(b"PROMPT")
    screen.type(b"exit 6\n")
    assert screen.end() == 6


def test_killing_the_relay_ends_the_command(joe: Callable[..., Terminal]) -> None:
    screen = joe("echo ready; exec sleep 60")
    screen.until(b"ready")
    (started,) = children_of(screen.pid)
    os.kill(screen.pid, signal.SIGKILL)
    assert screen.end() == -signal.SIGKILL
    wait_until(lambda: not Path(f"/proc/{started}").exists())


def test_closing_the_terminal_ends_the_command(joe: Callable[..., Terminal]) -> None:
    screen = joe("echo ready; exec sleep 60")
    screen.until(b"ready")
    os.close(screen.fd)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(screen.pid, os.WNOHANG))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 129


def test_exec_gets_one_too(container: Container) -> None:
    with container.running("chroot", "sh", "-c", "echo ready; exec sleep 60") as process:
        assert process.stdout
        process.stdout.readline()
        words: list[str | Path] = [container.script, "--exec", "--user", "joe"]
        screen = Terminal([*words, "sh", "-c", f"{OPENED}; exit 7"], user=False)
        opens_all(screen)
        assert screen.end() == 7
        process.terminate()


def test_with_many_ids(container: Container, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = with_subordinate_ids(place)
    for name, value in options["env"].items():
        monkeypatch.setenv(name, value)
    words: list[str | Path] = [*options["shell"], container.script, "--ids", "many", "--user", "joe"]
    screen = Terminal([*words, "sh", "-c", f"{OPENED}; exit 7"], user=False)
    opens_all(screen)
    assert screen.end() == 7


@pytest.mark.parametrize("missing", ["relay", "terminals"])
def test_without_one_the_terminal_stays_the_caller_s(container: Container, missing: str) -> None:
    """As with su: it can be written to, but not opened."""
    starter("chroot")
    start = f"exec '{container.script}' --runtime chroot --user joe sh -c 'echo written; {CLOSED}'"
    if missing == "relay":
        (container.directory / ".provision/terminal-relay").unlink()
    else:
        start = f"mount --bind /dev/null /dev/ptmx && {start}"
    screen = Terminal(["unshare", "--mount", "sh", "-c", start], user=False)
    screen.until(b"written")
    assert stat_terminal(screen.fd).st_uid == 0
    assert screen.end() == 3


@pytest.mark.parametrize("redirected", ["| cat", "</dev/null", ">/dev/null", "2>/dev/null", "2>&1 | cat"])
def test_where_only_some_streams_are_the_terminal(container: Container, redirected: str) -> None:
    starter("chroot")
    guest = "echo line out >/dev/stdout && echo line error >/dev/stderr && echo line terminal >/dev/tty && exit 5"
    start = f"{container.script} --runtime chroot --user joe sh -c '{guest}' {redirected}"
    screen = Terminal(["bash", "-c", f"set -o pipefail; {start}; status=$?; echo status $status"], user=False)
    modes = termios.tcgetattr(screen.fd)
    screen.until(b"line terminal\r\n")
    screen.until(b"status 5\r\n")
    assert stat_terminal(screen.fd).st_uid == 0
    assert termios.tcgetattr(screen.fd) == modes
    assert screen.end() == 0


@pytest.mark.parametrize("key", [b"\x03", b"\x1c"])
def test_keys_where_only_some_are(container: Container, key: bytes) -> None:
    """The command has them once, from the caller's terminal."""
    starter("chroot")
    guest = COUNTING_INTERRUPTS.replace("INT", "INT QUIT").replace("ready", "ready >&2")
    start = f'{container.script} --runtime chroot --user joe sh -c "$0" | (trap "" INT QUIT; cat)'
    outer = f"trap : INT QUIT; set -o pipefail; {start}; echo status $?"
    screen = Terminal(["bash", "-c", outer, guest], user=False)
    screen.until(b"ready")
    time.sleep(0.1)
    screen.type(key)
    screen.until(b"status 41")
    screen.end()


def test_control_z_where_only_some_are(container: Container) -> None:
    """All of the job stops, and goes on."""
    starter("chroot")
    screen = bash_at_terminal()
    guest = "echo rea''dy >/dev/stderr; sleep 0.5; read x; echo got $x >/dev/stderr; exit 7"
    screen.type(f"{container.script} --runtime chroot --user joe sh -c '{guest}' >/dev/null\n".encode())
    screen.until(b"ready")
    screen.type(b"\x1a")
    screen.until(b"Stopped")
    screen.until(b"PROMPT")
    screen.type(b"fg\n")
    screen.until(b"/dev/null")
    screen.type(b"a line\n")
    screen.until(b"got a line")
    screen.until(b"PROMPT")
    screen.type(b"echo sta''tus $?\n")
    screen.until(b"status 7")
    screen.type(b"exit 9\n")
    assert screen.end() == 9


def test_the_terminal_of_another_session_is_left_alone(container: Container) -> None:
    """As with setsid(1) in a shell: that reads from it."""
    need("setsid")
    starter("chroot")
    guest = "read x; echo got $x >/dev/stdout; echo error >/dev/stderr; exit 7"
    start = f"setsid -w {container.script} --runtime chroot --user joe sh -c 'echo ready; {guest}'; echo status $?"
    screen = Terminal(["bash", "-c", start], user=False)
    modes = termios.tcgetattr(screen.fd)
    screen.until(b"ready")
    assert termios.tcgetattr(screen.fd) == modes
    screen.type(b"a line\n")
    screen.until(b"got a line\r\nerror\r\nstatus 7")
    assert screen.end() == 0


def test_root_gets_none(container: Container) -> None:
    """It can open the caller's terminal, and a relay would cost milliseconds."""
    starter("chroot")
    screen = Terminal([container.script, "--runtime", "chroot", "sh", "-c", f"echo ready; {OPENED}"], user=False)
    screen.until(b"ready")
    assert Path(f"/proc/{screen.pid}/comm").read_text() != "terminal-relay\n"
    opens_all(screen)
    assert screen.end() == 0


def test_the_option_is_for_start_sh_itself(container: Container) -> None:
    starter("chroot")
    done = container.run("chroot", "--new-terminal", "yes", "--user", "joe", "true")
    assert done.returncode == 125
    assert done.stderr == b"start.sh: --new-terminal is for start.sh itself\n"


def test_a_user_s_start_at_a_terminal_is_listed_and_stopped(container: Container, joe: Callable[..., Terminal]) -> None:
    screen = joe("echo ready; exec sleep 60")
    screen.until(b"ready")
    (line,) = container.output("", "--list", by="chroot").decode().splitlines()
    assert line.split("\t")[1] == "chroot"
    subprocess.run([container.script, "--stop"], check=True, **starter("chroot"))
    assert screen.end() in (143, 137)
