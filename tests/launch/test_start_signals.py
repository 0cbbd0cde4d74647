"""What passes between start.sh's caller and the guest: exit status, signals, streams. Without a terminal."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, make_container, make_scratch, starter
from tests.support.tools import need
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shell", SHELLS)
def test_exit_status_passes_through(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    for status in (0, 1, 7, 125, 127, 255):
        assert container.run(runtime, "sh", "-c", f"exit {status}", shell=SHELLS[shell]).returncode == status


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_126_and_127_as_shells_do(place: Path, runtime: str, kind: str) -> None:
    target = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    (target.rootfs / "text").write_text("no program")
    for command, status in {"nonesuch": 127, "/no/such": 127, "/text": 126, "/": 126}.items():
        done = target.run(runtime, command)
        assert done.returncode == status, command
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"])
def test_signals_reach_the_guest(container: Container, runtime: str, shell: str, name: str) -> None:
    need(SHELLS[shell][0])
    guest = f"trap 'echo {name}; exit 41' {name}; echo ready; while :; do sleep 0.02; done"
    with container.running(runtime, "sh", "-c", guest, shell=SHELLS[shell]) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read().decode() == f"{name}\n"
        assert process.wait(60) == 41


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM"])
def test_a_guest_without_handlers_ends_by_signals(container: Container, runtime: str, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with container.running(runtime, "sh", "-c", "echo ready; exec sleep 60", stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 128 + number


def test_a_guest_that_handles_a_signal_goes_on(container: Container, runtime: str) -> None:
    guest = "n=0; trap 'n=$((n + 1)); echo got' TERM; echo ready; while [ $n -lt 2 ]; do sleep 0.02; done; exit 5"
    with container.running(runtime, "sh", "-c", guest) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        assert process.stdout.readline() == b"got\n"  # two that wait would be one
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 5


def test_a_signal_at_any_moment_leaves_nothing(container: Container, runtime: str) -> None:
    for delay in range(0, 60, 4):
        with container.running(runtime, "sleep", "30", stderr=subprocess.DEVNULL) as process:
            time.sleep(delay / 1000)
            process.terminate()
            assert process.wait(60) in (143, -signal.SIGTERM)


def test_ignored_interrupts_stay_ignored(container: Container, runtime: str) -> None:
    with container.running(
        runtime,
        "sh",
        "-c",
        "echo ready; sleep 0.5; exit 6",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 6


def test_no_process_outlives_a_namespace(container: Container) -> None:
    for runtime in ("userns", "chroot"):
        started = time.monotonic()
        assert container.run(runtime, "sh", "-c", "sleep 300 & exit 3").returncode == 3
        assert time.monotonic() - started < 150


def test_what_the_guest_leaves_in_proot_ends_by_a_signal(container: Container) -> None:
    with container.running("proot", "sh", "-c", "(sleep 60; :) & echo $$; exit 3") as process:
        assert process.stdout
        first = int(process.stdout.readline())
        wait_until(lambda: not Path(f"/proc/{first}").exists())
        process.terminate()
        assert process.wait(60) == 3


def test_input_and_pipes_pass_through(container: Container, runtime: str) -> None:
    done = container.run(runtime, "cat", stdin=None, input=bytes(range(256)) * 5000)
    assert done.stdout == bytes(range(256)) * 5000


def test_no_reader_is_kept_waiting(container: Container, runtime: str) -> None:
    """A writer notices that the guest has ended."""
    starter(runtime)  # where this can't be, the writer isn't started either
    writer = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    assert container.run(runtime, "head", "-n", "1", stdin=writer.stdout).stdout == b"y\n"
    assert writer.stdout
    writer.stdout.close()
    assert writer.wait(60) == -signal.SIGPIPE


@pytest.mark.parametrize("shell", SHELLS)
def test_closed_streams_are_empty_ones(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *SHELLS[shell]]
    assert container.run(runtime, "sh", "-c", "cat && echo x && exit 4", shell=closing).returncode == 4


@pytest.mark.parametrize("shell", SHELLS)
def test_the_guest_has_no_files_of_ours(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    guest = 'set -- /proc/self/fd/*; shift 3; for file; do busybox readlink "$file"; done; :'
    assert container.output(runtime, "sh", "-c", guest, shell=SHELLS[shell]) == b""


def test_two_at_once(container: Container, runtime: str) -> None:
    with container.running(runtime, "sh", "-c", "echo ready; sleep 1; exit 4") as first:
        assert first.stdout
        first.stdout.readline()
        assert container.run(runtime, "sh", "-c", "exit 5").returncode == 5
        assert first.wait(60) == 4
