"""start.sh by a shell like the ash of BusyBox 1.38.0, whose `read` never returns once it has trapped a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, choosing, starter, user_of, without_helper
from tests.support.processes import descendants_of
from tests.support.terminal import Terminal
from tests.support.tools import find_program, need
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# The builtin of a shell that has had no signal; later it says so, and ends start.sh.
FAULTY_READ = b"""
read() {
    if [ -n "${last_signal-}" ]; then
        echo "read after a signal" >&2
        kill -s KILL $$
        while :; do sleep 1; done
    fi
    command read "$@"
}
"""


@pytest.fixture
def container(container: Container) -> Container:
    first, rest = container.script.read_bytes().split(b"\n", 1)
    container.script.write_bytes(first + FAULTY_READ + rest)
    return container


@pytest.fixture(params=["dash", "ash"])
def shell(request: pytest.FixtureRequest, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shells that can't be told from the faulty one. The others have a `read` of their own, which works.

    In namespaces start.sh is run again by the `sh` on PATH.
    """
    command = SHELLS[request.param]
    need(command[0])
    (place / "shells").mkdir()
    (place / "shells/sh").symlink_to(find_program(command[0]) or "")
    monkeypatch.setenv("PATH", f"{place}/shells:{os.environ['PATH']}")
    return command


def counting(name: str) -> str:
    return f"n=0; trap 'n=$((n + 1)); echo got $n' {name}; echo ready; while [ $n -lt 3 ]; do sleep 0.02; done; exit 5"


def assert_three_signals_arrive(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM three times to a start.sh whose guest counts them, and ends then."""
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    for number in range(1, 4):
        process.terminate()
        assert process.stdout.readline() == b"got %d\n" % number
    assert process.wait(60) == 5


@pytest.mark.parametrize("has_helper", [True, False])
@pytest.mark.parametrize("has_list", [True, False])
def test_each_signal_reaches_the_guest(
    container: Container, runtime: str, shell: list[str], has_helper: bool, has_list: bool
) -> None:
    env = dict(starter(runtime)["env"])
    if not has_list:
        env["PROVISION_TEST_NO_CHILDREN"] = "yes"
    if not has_helper:
        without_helper(container)
    with container.running(runtime, "sh", "-c", counting("TERM"), shell=shell, env=env) as process:
        assert_three_signals_arrive(process)


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1"])
def test_a_guest_ends_by_a_signal(container: Container, runtime: str, shell: list[str], name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with container.running(runtime, "sh", "-c", "echo ready; exec sleep 60", shell=shell) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 128 + number


def test_a_signal_at_any_moment_ends_it(container: Container, runtime: str, shell: list[str]) -> None:
    for delay in range(0, 60, 4):
        with container.running(runtime, "sleep", "30", shell=shell) as process:
            time.sleep(delay / 1000)
            process.terminate()
            assert process.wait(60) in (143, -signal.SIGTERM)


def test_all_processes_may_get_it_at_once(container: Container, runtime: str, shell: list[str]) -> None:
    """As from a service manager. Process 1 may have ended when start.sh gets its own, and no program can be started."""
    for _ in range(10):
        with container.running(runtime, "sh", "-c", "echo ready; exec sleep 60", shell=shell) as process:
            assert process.stdout
            process.stdout.readline()
            for pid in [*descendants_of(process.pid), process.pid]:
                with suppress(ProcessLookupError):  # it has ended by the signal of another one
                    os.kill(pid, signal.SIGTERM)
            assert process.wait(60) == 143


def test_what_is_started_with_exec_gets_it(container: Container, runtime: str, shell: list[str]) -> None:
    with container.running(runtime, "sh", "-c", "echo ready; exec sleep 60", shell=shell) as session:
        assert session.stdout
        session.stdout.readline()
        with container.running("", "--exec", "sh", "-c", counting("TERM"), shell=shell, **user_of(runtime)) as process:
            assert_three_signals_arrive(process)
        container.run("", "--stop", shell=shell, by=runtime)
        assert session.wait(60) == 143


def test_all_is_in_the_file_of_a_user(container: Container, tmp_path: Path, shell: list[str]) -> None:
    """Relays write it, which start.sh waits for."""
    command = "trap 'head -c 3000000 /dev/zero; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    path = tmp_path / "log"
    with (
        path.open("wb") as log,
        container.running("chroot", "--user=joe", "sh", "-c", command, shell=shell, stdout=log) as process,
    ):
        wait_until(lambda: path.read_bytes() == b"ready\n")
        process.terminate()
        assert process.wait(60) == 3
    assert path.stat().st_size == 3_000_006


@pytest.fixture
def terminal(container: Container, runtime: str, shell: list[str]) -> Callable[..., Terminal]:
    starter(runtime)
    return lambda *args: Terminal([*shell, container.script, *choosing(runtime), *args], user=runtime != "chroot")


@pytest.mark.parametrize("has_helper", [True, False])
def test_control_c_reaches_the_guest(container: Container, terminal: Callable[..., Terminal], has_helper: bool) -> None:
    if not has_helper:
        without_helper(container)
    screen = terminal("sh", "-c", counting("INT"))
    screen.until(b"ready")
    for number in range(1, 4):
        screen.type(b"\x03")
        screen.until(f"got {number}".encode())
    assert screen.end() == 5


@pytest.mark.parametrize("name", ["tini", "program"])
def test_control_c_ends_what_ignores_it(container: Container, terminal: Callable[..., Terminal], name: str) -> None:
    """The second time by SIGTERM, which it ignores here, and then by SIGKILL."""
    (container.rootfs / name).write_text(
        "#!/bin/sh\ntrap '' INT\ntrap 'echo got TERM' TERM\necho ready\nwhile :; do sleep 0.05; done\n"
    )
    (container.rootfs / name).chmod(0o755)
    screen = terminal(f"/{name}")
    screen.until(b"ready")
    screen.type(b"\x03")
    screen.until(b"start.sh: the program ignores Ctrl-C: press it again to end it")
    screen.type(b"\x03")
    screen.until(b"got TERM")  # two that wait would be one
    assert not screen.ends_within(0.5)
    screen.type(b"\x03")
    assert screen.end() == 137


@pytest.mark.parametrize("runtime", ["proot", "chroot"])  # userns takes bubblewrap then, which ends by it
def test_control_c_where_the_guest_is_no_background_job(
    container: Container, place: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """busybox's shell and env can't give SIGINT back to one."""
    need("busybox", "proot")
    starter(runtime)
    without_helper(container)
    (place / "env").symlink_to(find_program("busybox") or "")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    command: list[str | Path] = ["busybox", "ash", container.script, *choosing(runtime)]
    guest = "trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done"
    screen = Terminal([*command, "sh", "-c", guest], user=runtime != "chroot")
    screen.until(b"ready")
    screen.type(b"\x03")
    assert screen.end() == 42
