"""The exit status is the command's in every runtime, whatever its children do. proot 5.1.0 says another one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.image.platform import host_platform
from tests.support.containers import SHELLS, Container, make_container, make_scratch, starter
from tests.support.leftovers import processes_left
from tests.support.processes import children_of
from tests.support.programs import Child, End, program_that
from tests.support.tools import find_program, need, unavailable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

WAYS = ["proot", "proot without a filter", "proot without a helper", "userns", "chroot", "qemu"]
SIGNALS = [int(number) for number in (1, 2, 3, 6, 9, 10, 11, 13, 14, 15)]

ends = st.builds(End, st.integers(0, 255)) | st.builds(End, st.sampled_from(SIGNALS), st.just(True))
children = st.builds(Child, ends, st.booleans(), st.booleans(), st.booleans())


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, place: Path) -> tuple[Container, str, str]:
    """A container without a shell, its runtime, and its architecture. The shell reports where there is no helper."""
    name: str = request.param
    architecture, make = host_platform().architecture, make_scratch
    if name.startswith("qemu"):
        need("qemu-aarch64-static")
        if architecture == "arm64":
            unavailable("this machine runs arm64 by itself")
        architecture = "arm64"
    if name == "proot without a helper":
        make = make_container
    target = make(place / "container", image_platform=f"linux/{architecture}")
    runtime = {"userns": "userns", "chroot": "chroot"}.get(name, "proot")
    if name == "proot without a filter":
        (target.directory / ".provision/proot.bpf").unlink()
    if name == "proot without a helper":
        (target.directory / ".provision/machine").unlink()
    starter(runtime)
    return target, runtime, architecture


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(end=ends, started=st.lists(children, max_size=4), executes=st.booleans())
def test_the_status_is_the_command_s(
    way: tuple[Container, str, str], end: End, started: list[Child], executes: bool
) -> None:
    target, runtime, architecture = way
    path = target.rootfs / "end"
    path.write_bytes(program_that(architecture, end, tuple(started), executes="/end" if executes else ""))
    path.chmod(0o755)
    begin = time.monotonic()
    done = target.run(runtime, "/end")
    assert (done.returncode, done.stdout) == (end.status, b"")
    assert time.monotonic() - begin < 30, "what the command has left running ends with it"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_that_runs_start_sh_reads_the_report(container: Container, shell: str) -> None:
    need(SHELLS[shell][0], "proot")
    for end, status in {"kill -SEGV $$": 139, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137}.items():
        assert container.run("proot", "sh", "-c", f"true; {end}", shell=SHELLS[shell]).returncode == status


def test_a_dir_that_can_t_be_written_to_reports_too(container: Container) -> None:
    need("proot")
    for path in (container.directory / ".provision/run", container.directory / ".provision"):
        if path.exists():
            path.chmod(0o555)
    assert container.run("proot", "sh", "-c", "true; kill -SEGV $$").returncode == 139
    (container.directory / ".provision").chmod(0o755)


def test_a_parent_that_ignores_its_children_changes_nothing(container: Container) -> None:
    need("proot")
    done = container.run(
        "proot", "sh", "-c", "true; exit 9", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    )
    assert done.returncode == 9


def test_the_command_has_none_of_the_report_s_descriptors(container: Container) -> None:
    need("proot")
    script = "for fd in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$fd ] && echo $fd; done; exit 0"
    assert container.output("proot", "sh", "-c", script) == b""


def test_what_the_command_leaves_running_ends_with_it(container: Container) -> None:
    need("proot")
    begin = time.monotonic()
    done = container.run("proot", "sh", "-c", "sleep 50 & exec sh -c 'exit 3'")
    assert done.returncode == 3
    assert time.monotonic() - begin < 25


@pytest.mark.parametrize("where", ["first", "background"])
def test_no_guest_goes_on_when_proot_is_killed(container: Container, where: str) -> None:
    """It would go on among the host's files: proot 5.1.0 doesn't ask the kernel to kill what it traces."""
    need("proot")
    outside = Path(f"/tmp/alive-{os.getpid()}")  # where it would write then
    loop = f"while :; do echo >>{outside}; sleep 0.05; done"
    script = {"first": f"echo ready; {loop}", "background": f"({loop}) & echo ready; wait"}[where]
    with container.running("proot", "sh", "-c", script, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        alive = container.rootfs / "tmp" / outside.name
        wait_until(alive.exists)
        (proot,) = [pid for pid in children_of(process.pid) if name_of(pid) == "proot"]
        os.kill(proot, signal.SIGKILL)
        assert process.wait(60) == 137
    assert processes_left(container.directory) == []
    before = alive.stat().st_size
    time.sleep(0.4)
    assert alive.stat().st_size == before
    if outside.exists():  # what was already under way when proot ended
        size = outside.stat().st_size
        time.sleep(0.3)
        assert outside.stat().st_size == size
        outside.unlink()


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_session_s_file_shows_three_lines_while_it_runs(container: Container) -> None:
    need("proot")
    with container.running("proot", "sh", "-c", "echo ready; exec sleep 30") as process:
        assert process.stdout
        process.stdout.readline()
        listed = container.run("", "--list", by="proot").stdout.decode()
        assert listed == f"{process.pid}\tproot\tsh -c 'echo ready; exec sleep 30'\n"
        process.terminate()
        assert process.wait(60) == 143


def test_a_program_that_has_started_another_keeps_its_heap(container: Container) -> None:
    """PostgreSQL's initdb crashed: proot 5.1.0 forgets the heap of a process that starts another one by clone(2)."""
    need("proot", "python3")
    places = [place for place in ("/usr", "/lib", "/lib64") if os.path.isdir(place)]
    binds = [word for place in places for word in ("--bind", place)]
    script = "import os; os.system('true'); kept = [bytearray(60000) for _ in range(500)]; print(len(kept))"
    assert container.output("proot", *binds, "/usr/bin/python3", "-I", "-S", "-c", script) == b"500\n"


def test_print_gives_a_command_line_that_works(container: Container) -> None:
    need("proot")
    options = starter("proot")
    printed = container.run("proot", "--print", "sh", "-c", "true; kill -SEGV $$").stdout.decode()
    done = subprocess.run(["sh", "-c", printed], check=False, capture_output=True, **options)
    assert done.returncode in (139, 255), "proot's own status of a signal"
    printed = container.run("proot", "--print", "sh", "-c", "exit 6").stdout.decode()
    assert subprocess.run(["sh", "-c", printed], check=False, capture_output=True, **options).returncode == 6
    assert find_program("proot") in printed.split()
