"""A directory that can't be written to: what runs from it is listed and stopped, and starts leave nothing elsewhere."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, is_roots, starter
from tests.support.tools import need, need_root, provision_command, user_id

pytestmark = pytest.mark.slow


def run_read_only(container: Container, runtime: str, script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script where the directory is mounted read-only. $start is its start.sh, with the runtime."""
    need_root()
    need("setpriv")
    for name in ("dev", "sys", "run"):
        (container.rootfs / name).mkdir()
    mount = 'mount --bind "$DIR" "$DIR" && mount -o remount,bind,ro "$DIR" && exec "$@"'
    outer = ["unshare", "--mount", "sh", "-c", mount, "mount"]
    if not is_roots(runtime):
        outer += ["setpriv", f"--reuid={user_id()}", f"--regid={user_id()}", "--clear-groups"]
    env = {**starter(runtime)["env"], "DIR": str(container.directory), "RUNTIME": runtime.split()[0]}
    command = [*outer, "sh", "-c", script, "script", *words]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("shell", SHELLS)
def test_what_runs_from_it_is_stopped(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    script = """
        start="$* $DIR/start.sh" log=$(mktemp)
        guest='trap "echo stopped; exit 41" TERM; echo ready; while :; do sleep 0.05; done'
        $start --runtime "$RUNTIME" sh -c "$guest" >"$log" &
        session=$!
        # A pager that has the script open is no session.
        sleep 50 10<"$DIR/start.sh" &
        until grep -q ready "$log"; do sleep 0.1; done
        $start --list | sed "s/^$session\\b/PID/"
        $start --exec true
        echo "exec: $?"
        $start --stop
        echo "stop: $?"
        kill "$!" && echo "the pager was left alone"
        wait "$session"
        echo "status: $?"
        $start --list
        cat "$log"
        rm "$log"
    """
    done = run_read_only(container, runtime, script, *SHELLS[shell])
    assert done.stdout.decode().split("\n") == [
        "PID\t?\tnot recorded, since DIR is read-only",
        "exec: 125",
        "stop: 0",
        "the pager was left alone",
        "status: 41",
        "ready",
        "stopped",
        "",
    ]
    (line,) = done.stderr.decode().splitlines()
    assert "has no record and can't be joined" in line


def test_what_ignores_the_polite_signal_is_killed(container: Container, runtime: str) -> None:
    script = """
        log=$(mktemp)
        guest='trap "" TERM; echo ready; while :; do sleep 0.05; done'
        "$DIR/start.sh" --runtime "$RUNTIME" sh -c "$guest" >"$log" &
        until grep -q ready "$log"; do sleep 0.1; done
        PROVISION_TEST_STOP_TENTHS=20 "$DIR/start.sh" --stop
        echo "stop: $?"
        wait
        "$DIR/start.sh" --list
        rm "$log"
    """
    done = run_read_only(container, runtime, script)
    assert (done.stdout, done.stderr.replace(b"Killed\n", b"")) == (b"stop: 0\n", b"")


def test_starts_leave_nothing_in_tmpdir(container: Container, place: Path, runtime: str) -> None:
    generated = container.directory / ".provision/generated"
    generated.mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        for path in (generated / name, container.rootfs / "etc" / name):
            path.write_text("of another machine\n")
            os.chown(path, user_id(), user_id())
    temporary = place / "temporary"
    temporary.mkdir()
    temporary.chmod(0o777)
    script = 'TMPDIR=$1 "$DIR/start.sh" --runtime "$RUNTIME" --hostname box cat /etc/hostname'
    done = run_read_only(container, runtime, script, str(temporary))
    assert (done.stdout, done.stderr) == (b"box\n", b"")
    assert list(temporary.iterdir()) == []


def test_logs_says_where_the_output_is(container: Container, place: Path) -> None:
    logs, options = provision_command("logs", container.directory, cache=place / "cache")
    script = f"""
        export HOME={place}
        TMPDIR={place} "$DIR/start.sh" --runtime "$RUNTIME" --detach sleep 50 2>/dev/null >/dev/null
        cd {options.get("cwd") or "/"}
        {shlex.join(map(str, logs))} --trust-dir
        "$DIR/start.sh" --stop
    """
    done = run_read_only(container, "chroot", script)
    assert b"can't be written to, and has no log" in done.stderr
    assert b"that start.sh --detach has named" in done.stderr
    for path in place.glob("start.*"):
        path.unlink()
