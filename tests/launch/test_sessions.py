"""What runs from a directory: start.sh --list, --stop and --detach."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from provisioner.container.processes import find_processes
from provisioner.container.sessions import find_sessions
from tests.support.containers import SHELLS, Container, hand_over, starter
from tests.support.tools import need, need_root, unavailable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

LOOP = "echo ready; while :; do sleep 0.05; done"


def listed(container: Container, runtime: str) -> list[list[str]]:
    done = container.output("", "--list", by=runtime)
    return [line.split("\t") for line in done.decode().splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_runs_is_listed_while_it_does(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    assert listed(container, runtime) == []
    with container.running(runtime, "sh", "-c", LOOP, "it's\n", shell=SHELLS[shell]) as process:
        assert process.stdout
        process.stdout.readline()
        (found,) = listed(container, runtime)
        assert found == [str(process.pid), runtime, f"sh -c '{LOOP}' 'it'\\''s?'"]
        process.terminate()
        process.wait(60)
    assert listed(container, runtime) == []
    listed(container, runtime)
    assert list((container.directory / ".provision/run").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], f"sh -c '{LOOP}' 'two words'"),
        (["sh", "-c", LOOP], f"sh -c '{LOOP}'"),
        (["--shell", "--", "-c", LOOP], f"--shell -c '{LOOP}'"),
        (["--entrypoint", "busybox", "--", "sh", "-c", LOOP], f"busybox sh -c '{LOOP}'"),
    ],
)
def test_a_session_is_listed_with_its_whole_command(container: Container, options: list[str], expected: str) -> None:
    entrypoint = () if options[:1] == ["sh"] else ("sh", "-c")
    container.set(image_entrypoint=entrypoint, image_command=(LOOP, "two words"))
    with container.running("proot", *options) as process:
        assert process.stdout
        process.stdout.readline()
        assert listed(container, "proot") == [[str(process.pid), "proot", expected]]
        process.terminate()
        process.wait(60)


def test_two_starts_are_two_and_join_nothing(container: Container, runtime: str) -> None:
    guest = "echo $$ >/tmp/$1; echo ready; trap 'exit 41' TERM; while :; do sleep 0.05; done"
    with (
        container.running(runtime, "sh", "-c", guest, "say", "a") as first,
        container.running(runtime, "sh", "-c", guest, "say", "b") as second,
    ):
        for process in (first, second):
            assert process.stdout
            process.stdout.readline()
        assert sorted(int(pid) for pid, *_ in listed(container, runtime)) == sorted([first.pid, second.pid])
        second.terminate()
        assert second.wait(60) == 41
        assert first.poll() is None
        assert [int(pid) for pid, *_ in listed(container, runtime)] == [first.pid]
        first.terminate()
        assert first.wait(60) == 41


def test_files_of_many_sessions_are_removed(container: Container) -> None:
    run = container.directory / ".provision/run"
    run.mkdir()
    for pid in range(4194304, 4194304 + 100):
        (run / str(pid)).write_text("")
    hand_over(container)
    container.output("proot", "true")
    assert len(list(run.iterdir())) == 1


@pytest.mark.parametrize("content", ["1\nproot\nsh\n", "", "no number\n", "\n\n\n"])
def test_files_of_what_has_ended_count_for_nothing(container: Container, content: str) -> None:
    run = container.directory / ".provision/run"
    run.mkdir()
    for pid in (os.getpid(), 1, 4194303):
        (run / str(pid)).write_text(content)
    hand_over(container)
    assert listed(container, "proot") == []
    assert container.output("proot", "--stop") == b""


def test_a_polite_stop_lets_the_guest_clean_up(container: Container, runtime: str) -> None:
    guest = "trap 'echo cleaned; exit 41' TERM; echo ready; while :; do sleep 0.05; done"
    with container.running(runtime, "sh", "-c", guest) as process:
        assert process.stdout
        process.stdout.readline()
        assert container.output("", "--stop", by=runtime) == b""
        assert process.stdout.read() == b"cleaned\n"
        assert process.wait(60) == 41


def test_the_image_s_own_signal_is_the_polite_one(container: Container) -> None:
    container.set(image_stop_signal="SIGQUIT")
    with container.running("proot", "sh", "-c", f"trap 'exit 43' QUIT; {LOOP}") as process:
        assert process.stdout
        process.stdout.readline()
        container.output("proot", "--stop")
        assert process.wait(60) == 43


def test_what_does_not_listen_is_ended_surely(container: Container, runtime: str) -> None:
    guest = f"trap '' TERM; (trap '' TERM; sleep 60; :) & {LOOP}"
    with container.running(runtime, "sh", "-c", guest) as process:
        assert process.stdout
        process.stdout.readline()
        env = {**starter(runtime)["env"], "PROVISION_TEST_STOP_TENTHS": "10"}
        container.output("", "--stop", by=runtime, env=env)
        assert process.wait(60) in (137, 255, -signal.SIGKILL)  # the kill may reach start.sh before it has ended
    assert listed(container, runtime) == []
    # `place` looks for processes that are left.


def test_others_sessions_are_not_stopped(container: Container) -> None:
    need_root()
    with container.running("chroot", "sh", "-c", LOOP) as process:
        assert process.stdout
        process.stdout.readline()
        done = container.run("proot", "--stop")
        assert done.returncode == 125
        assert done.stderr.decode() == f"start.sh: can't stop {process.pid}, which belongs to another user\n"
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("shell", SHELLS)
def test_detached_it_goes_on_and_writes_a_log(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    guest = "echo said; echo wrong >&2; trap 'echo ended; exit 3' TERM; while :; do sleep 0.05; done"
    started = container.run(runtime, "--detach", "sh", "-c", guest, shell=SHELLS[shell])
    log = container.directory / ".provision/log"
    pid = int(started.stdout)
    assert started.returncode == 0
    assert started.stderr.decode() == f"start.sh: it runs as process {pid}, and its output goes to {log}\n"
    wait_until(lambda: b"wrong" in log.read_bytes())
    assert [(int(session[0]), session[1]) for session in listed(container, runtime)] == [(pid, runtime)]
    assert os.getsid(pid) != os.getsid(0)
    container.output("", "--stop", by=runtime)
    assert log.read_text() == "said\nwrong\nended\n"


def test_a_detached_guest_has_sigint(container: Container) -> None:
    if subprocess.run(["env", "--default-signal=INT", "true"], capture_output=True, check=False).returncode:
        unavailable("this env is not GNU's")
    pid = int(container.run("proot", "--detach", "sh", "-c", f"trap 'echo got; exit' INT; {LOOP}").stdout)
    log = container.directory / ".provision/log"
    wait_until(lambda: b"ready" in log.read_bytes())
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: b"got" in log.read_bytes())
    assert log.read_text() == "ready\ngot\n"


def test_a_detached_daemon_receives_sighup(container: Container, runtime: str) -> None:
    need("setsid")
    pid = int(container.run(runtime, "--detach", "sh", "-c", f"trap 'echo reloads' HUP; {LOOP}").stdout)
    log = container.directory / ".provision/log"
    for expected, number in ((b"ready\n", signal.SIGHUP), (b"ready\nreloads\n", signal.SIGTERM)):
        wait_until(lambda: log.read_bytes() == expected)  # noqa: B023  it is called in this round
        os.kill(pid, number)


@pytest.mark.parametrize("option", ["--detach", "--stop", "--list"])
def test_with_print_nothing_of_it_is_done(container: Container, option: str) -> None:
    with container.running("proot", "sh", "-c", LOOP) as process:
        assert process.stdout
        process.stdout.readline()
        assert b"/proot " in container.output("proot", option, "--print", "true")
        assert process.poll() is None
        process.terminate()
        process.wait(60)
    assert not (container.directory / ".provision/log").exists()


def test_the_log_of_a_directory_that_cannot_be_written(container: Container, place: Path) -> None:
    need_root()
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o777)
    for path in (container.directory, *container.directory.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    env = {**starter("proot")["env"], "TMPDIR": str(place / "tmp")}
    message = container.run("proot", "--detach", "sh", "-c", "echo said", env=env).stderr.decode()
    log = Path(re.sub(r".* output goes to (.*)\n", r"\1", message))
    assert log.parent == place / "tmp"
    wait_until(lambda: log.read_bytes() == b"said\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_detached_session_is_listed_at_once(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    for _ in range(3):
        pid = int(container.run(runtime, "--detach", "sleep", "60", shell=SHELLS[shell]).stdout)
        assert listed(container, runtime) == [[str(pid), runtime, "sleep 60"]]
        container.output("", "--stop", by=runtime)


def test_a_command_that_is_quick_has_been_started(container: Container, runtime: str) -> None:
    started = container.run(runtime, "--detach", "true")
    assert (started.returncode, started.stdout.strip().isdigit()) == (0, True)


def test_why_nothing_could_be_detached_is_told(container: Container) -> None:
    done = container.run("", "--detach", "--runtime", "nonesuch", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"start.sh: unknown runtime nonesuch: it is auto, proot, chroot or userns\n"


@pytest.mark.parametrize("way", ["stopped", "deaf", "many"])
def test_stopping_takes_no_longer_than_its_timeout(container: Container, runtime: str, way: str) -> None:
    """By the clock, also when start.sh itself has been stopped, and with many sessions."""
    guest = f"trap '' TERM; (trap '' TERM; sleep 60; :) & {LOOP}"
    pids = [int(container.run(runtime, "--detach", "sh", "-c", guest).stdout) for _ in range(8 if way == "many" else 1)]
    log = container.directory / ".provision/log"
    wait_until(lambda: log.read_bytes().count(b"ready") >= len(pids))
    if way == "stopped":
        os.kill(pids[0], signal.SIGSTOP)
    started = time.monotonic()
    container.output("", "--stop", "--timeout", "6" if way == "many" else "3", by=runtime)
    assert time.monotonic() - started < 40  # eight of them, one after the other, take 48
    assert listed(container, runtime) == []


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "99999"])
def test_a_timeout_is_a_number_of_seconds(container: Container, value: str) -> None:
    done = container.run("", "--stop", "--timeout", value)
    assert (done.returncode, done.stderr.decode()) == (
        125,
        f"start.sh: --timeout needs a number of seconds, not {value or 'an empty word'}\n",
    )


def test_it_counts_what_provision_list_counts(container: Container, runtime: str) -> None:
    with (
        container.running(runtime, "sh", "-c", LOOP) as first,
        container.running(runtime, "sh", "-c", f"sleep 60 & (sleep 60 &) ; {LOOP}") as second,
    ):
        for process in (first, second):
            assert process.stdout
            process.stdout.readline()
        container.run("", "--exec", "--session", str(first.pid), "--detach", "sleep", "60", by=runtime)
        pids = find_processes([container.directory])[container.directory]
        assert len(pids) > 3
        assert find_sessions(container.directory, pids) == sorted(int(pid) for pid, *_ in listed(container, runtime))
        container.output("", "--stop", by=runtime)
    assert find_sessions(container.directory, []) == []


def test_sessions_without_a_file_are_counted_too(container: Container, runtime: str) -> None:
    with container.running(runtime, "sh", "-c", f"sleep 60 & (sleep 60 &) ; {LOOP}") as process:
        assert process.stdout
        process.stdout.readline()
        file = container.directory / ".provision/run" / str(process.pid)
        file.unlink()
        pids = find_processes([container.directory])[container.directory]
        assert len(find_sessions(container.directory, pids)) == 1
        file.mkdir()
        assert len(find_sessions(container.directory, pids)) == 1
        file.rmdir()
        process.kill()
        process.wait(60)


def test_what_a_session_s_file_says_is_escaped(container: Container) -> None:
    run = container.directory / ".provision/run"
    run.mkdir()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (run / str(os.getpid())).write_text(f"{started}\nproot\x1b[2J\nsh\x1b[1m \x9b1m\u202e\n")
    hand_over(container)
    assert listed(container, "proot") == [[str(os.getpid()), "proot?[2J", "sh?[1m ?1m?"]]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_detached_user_can_open_the_log(container: Container, shell: str) -> None:
    need(SHELLS[shell][0])
    command = "echo one >/dev/stdout; echo two >/dev/stderr; sleep 0.2; echo three"
    done = container.run("chroot", "--detach", "--user=joe", "sh", "-c", command, shell=SHELLS[shell])
    assert done.returncode == 0, done
    name = done.stderr.decode().rpartition(" output goes to ")[2].strip()
    wait_until(lambda: b"three" in Path(name).read_bytes())
    assert Path(name).read_bytes() == b"one\ntwo\nthree\n"
