"""start.sh's own violent end: `kill -9`, which it can't hand on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, starter
from tests.support.leftovers import processes_left
from tests.support.tools import need
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# It listens to no signal, nor does what it leaves behind. proot can miss a process that is just being created.
STUBBORN = "trap '' HUP INT QUIT TERM; (sleep 60 & echo ready; wait) & exec sleep 60"


@pytest.fixture(autouse=True)
def _util_linux() -> None:
    need("setpriv")


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether nobody has the standard output of `process` open any more, after a minute at most."""
    assert process.stdout
    return bool(select.select([process.stdout], [], [], 60)[0]) and process.stdout.read() == b""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_kill_ends_the_guest_too(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    with container.running(runtime, "sh", "-c", STUBBORN, shell=SHELLS[shell]) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        assert has_ended(process)
    assert processes_left(container.directory) == []
    assert container.output("", "--list", by=runtime) == b""


@pytest.mark.parametrize("user", ["joe", "4321:4322"])
def test_of_users_too(container: Container, runtime: str, user: str) -> None:
    with container.running(runtime, "--user", user, "sh", "-c", STUBBORN) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        assert has_ended(process)


def test_on_a_machine_without_setpriv_too(container: Container, runtime: str, small_tools: dict[str, str]) -> None:
    """The helper does its work."""
    shell = [small_tools["PATH"] + "/sh"]
    with container.running(runtime, "sh", "-c", STUBBORN, shell=shell, env=small_tools) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        assert has_ended(process)
    assert processes_left(container.directory) == []


@pytest.mark.parametrize("has_helper", [True, False])
@pytest.mark.parametrize("options", [(), ("--privileged",)])
def test_an_init_too(container: Container, options: tuple[str, ...], has_helper: bool) -> None:
    if not has_helper:
        (container.directory / ".provision/machine").unlink()
    (container.rootfs / "sbin").mkdir()
    (container.rootfs / "sbin/init").write_text(f"#!/bin/sh\n{STUBBORN}")
    (container.rootfs / "sbin/init").chmod(0o755)
    for runtime in ("userns", "chroot"):
        with container.running(runtime, *options, "/sbin/init") as process:
            assert process.stdout
            process.stdout.readline()
            process.kill()
            assert has_ended(process)


def test_a_kill_at_any_moment_of_its_start_leaves_nothing(container: Container) -> None:
    for runtime in ("userns", "chroot"):
        for delay in range(0, 60, 3):
            with container.running(runtime, "sleep", "60") as process:
                time.sleep(delay / 1000)
                process.kill()
                assert has_ended(process)


def test_without_namespaces_the_command_ends(container: Container) -> None:
    with container.running("chroot", "--no-namespace", "sh", "-c", "echo ready; exec sleep 60") as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        assert has_ended(process)


def test_a_detached_one_too(container: Container, runtime: str) -> None:
    pid = int(container.run(runtime, "--detach", "sh", "-c", STUBBORN).stdout)
    log = container.directory / ".provision/log"
    wait_until(lambda: log.read_bytes() == b"ready\n")
    os.kill(pid, signal.SIGKILL)
    assert processes_left(container.directory) == []


def test_the_guest_goes_on_when_the_caller_of_start_sh_is_killed(container: Container, runtime: str) -> None:
    options = starter(runtime)
    guest = "echo ready; sleep 1; echo done"
    command = ["sh", "-c", '"$@" & wait', "sh", str(container.script), "--runtime", runtime, "sh", "-c", guest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        assert process.stdout.read() == b"done\n"


def test_a_setpriv_that_cannot_is_left_alone(container: Container, place: Path) -> None:
    """util-linux before 2.33, and other hard links of busybox."""
    need("proot")
    (place / "tools").mkdir()
    (place / "tools/setpriv").write_text('#!/bin/sh\necho "setpriv: unrecognized option $1" >&2\nexit 1\n')
    (place / "tools/setpriv").chmod(0o755)
    env = starter("proot")["env"]
    env["PATH"] = f"{place}/tools:{env['PATH']}"
    assert container.output("proot", "sh", "-c", "echo it starts", env=env) == b"it starts\n"


def test_what_is_printed_is_not_tied_to_a_shell(container: Container) -> None:
    assert b"pdeathsig" not in container.output("proot", "--print", "true")
