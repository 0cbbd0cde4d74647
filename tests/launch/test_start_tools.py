"""start.sh by each shell, with the tools of busybox and toybox, and how few programs it starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import SHELLS, Container, choosing, starter, without_helper
from tests.support.terminal import Terminal
from tests.support.tools import find_program, need
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_does_it_all(container: Container, place: Path, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    (place / "data").write_text("data")
    container.set(image_entrypoint=("sh", "-c"), image_env=("PATH=/bin", "ODD='\\\n\x81\xff"))
    # Process 1 of a namespace is the `sh` on PATH.
    (place / "shells").mkdir()
    inner = place / "shells/sh"
    shutil.copy(find_program(SHELLS[shell][0]) or "", inner)
    env = starter(runtime)["env"]
    env["PATH"] = f"{inner.parent}:{env['PATH']}"
    options = ["--user", "joe", "--workdir", "/home/joe/new", "--env", "A=a\n", "--dns", "192.0.2.1"]
    if runtime != "proot":
        options[3] = "/home/joe"
    guest = 'printf "%s\\0" "$ODD" "$A" "$HOME" "$PWD" "$(cat /etc/resolv.conf /data)" "$(id -u)"; exit 9'
    done = container.run(runtime, *options, "--bind", f"{place}/data:/data", guest, shell=SHELLS[shell], env=env)
    assert done.stderr == b""
    assert done.stdout.split(b"\0")[:-1] == [
        *(b"'\\\n\xc2\x81\xc3\xbf", b"a\n", b"/home/joe", options[3].encode()),
        *(b"nameserver 192.0.2.1\ndata", b"1000"),
    ]
    assert done.returncode == 9


@pytest.mark.parametrize("has_helper", [True, False])
def test_small_tools_are_enough(
    container: Container, runtime: str, small_tools: dict[str, str], has_helper: bool
) -> None:
    shell = [small_tools["PATH"] + "/sh"]
    options = ["--workdir", "/tmp/new", "--dns", "192.0.2.1"]
    guest = ["sh", "-c", "pwd; cat /etc/resolv.conf; exit 9"]
    if not has_helper:
        shown = without_helper(container).run(runtime, "true", shell=shell, env=small_tools).stderr
        if runtime == "proot":
            assert shown == b"" or b"programs inside can see files of this machine" in shown
        else:
            # Their setpriv can't drop capabilities.
            assert b"root keeps all capabilities" in shown
            options += ["--cap-add", "ALL"]
    done = container.run(runtime, *options, *guest, shell=shell, env=small_tools)
    assert (done.returncode, done.stdout) == (9, b"/tmp/new\nnameserver 192.0.2.1\n")
    if has_helper or runtime == "chroot":
        assert done.stderr == b""


@pytest.mark.parametrize("has_helper", [True, False])
def test_small_tools_pass_signals_on(
    container: Container, runtime: str, small_tools: dict[str, str], has_helper: bool
) -> None:
    shell = [small_tools["PATH"] + "/sh"]
    guest = "trap 'exit 41' TERM; trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done"
    # Without the helper busybox's shell can't give SIGINT back to a background process: it becomes a SIGTERM.
    interrupted = 41 if "busybox" in os.readlink(shell[0]) and not has_helper else 42
    if not has_helper:
        without_helper(container)
    for number, status in {signal.SIGTERM: 41, signal.SIGINT: interrupted}.items():
        with container.running(runtime, "sh", "-c", guest, shell=shell, env=small_tools) as process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(60) == status


def test_control_c_with_small_tools(
    container: Container, runtime: str, small_tools: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    starter(runtime)
    monkeypatch.setenv("PATH", small_tools["PATH"])
    shell = f"{small_tools['PATH']}/sh"
    guest = "trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done"
    screen = Terminal([shell, container.script, *choosing(runtime), "sh", "-c", guest], user=runtime != "chroot")
    screen.until(b"ready")
    screen.type(b"\x03")
    # bash loses the status of a child that ends while a signal comes in, and it is 128 and the signal's number then.
    assert screen.end() in ((42, 130) if os.readlink(shell).endswith("bash") else (42,))
    assert b"start.sh:" not in screen.shown
    assert b"mount:" not in screen.shown


# What start.sh calls for each runtime, less what each shell has built in.
CALLED = {
    "proot": {"cat", "date", "env", "head", "ln", "mkdir", "mktemp", "readlink", "rm", "setsid", "sleep", "uname"}
}
CALLED["userns"] = CALLED["proot"] - {"date", "ln", "mktemp", "uname"} | {"chroot", "unshare"}
if os.geteuid() != 0:
    CALLED["userns"].add("cp")  # for a copy of a chroot that the user may write to
CALLED["chroot"] = CALLED["userns"] | {"cp", "mount", "uname"}


@pytest.fixture
def recorded_tools(container: Container, place: Path, runtime: str, small_tools: dict[str, str]) -> dict[str, str]:
    """An environment whose PATH has no more than what start.sh calls; each tool notes its name in `place/called`.

    Where a guest can see it, a file tells that `sleep` was called.
    """
    starter(runtime)
    recorded = place / "recorded"
    recorded.mkdir()
    (place / "called").touch()
    (place / "tmp").mkdir()
    for name in ("called", "tmp"):
        (place / name).chmod(0o777)
    tools = small_tools["PATH"]
    for name in [*CALLED[runtime], "printf", "ls"]:  # mksh has no printf; for a log that is there
        (recorded / name).write_text(f'#!{tools}/sh\necho {name} >>{place}/called\nexec {tools}/{name} "$@"\n')
        (recorded / name).chmod(0o755)
    tell = f": >{container.rootfs}/tmp/sleeps\n"
    (recorded / "sleep").write_text((recorded / "sleep").read_text().replace("exec ", f"{tell}exec "))
    for name in ("sh", "proot"):
        (recorded / name).symlink_to(os.readlink(f"{tools}/{name}"))
    return {**small_tools, "PATH": str(recorded), "TMPDIR": str(place / "tmp")}


def test_each_program_that_it_calls_may_be_a_small_one(
    container: Container, place: Path, runtime: str, recorded_tools: dict[str, str]
) -> None:
    """All that start.sh calls programs for. One that it misses would be complained about on standard error."""
    quiet = []
    if runtime == "chroot":
        without_helper(container)  # which mounts without programs
        quiet = ["--cap-add", "ALL"]
    common: dict[str, Any] = {"shell": [recorded_tools["PATH"] + "/sh"], "env": recorded_tools}
    (place / "co:lon").write_text("content")
    (place / "linked").mkdir()
    linked = Container(place / "linked")
    linked.script.symlink_to(container.script)
    assert b"--bind" in linked.output("", "--help", by=runtime, **common)
    if runtime == "proot":
        common["env"] = {**recorded_tools, "PROVISION_TEST_FAKE_PROC": "yes"}
    options = ["--dns", "192.0.2.1", "--bind", f"{place}/co:lon:/deep/file", "--workdir", "/tmp/new"]
    guest = ["sh", "-c", "cat /etc/resolv.conf /deep/file; pwd; busybox grep -c btime /proc/stat; cat /proc/version"]
    output = linked.output(runtime, *quiet, *options, *guest, **common).decode().splitlines()
    assert output[:3] == ["nameserver 192.0.2.1", "content/tmp/new", "1"]
    assert (f"{os.uname().release} (provision) {os.uname().version}" in output[3]) == (runtime == "proot")
    (container.directory / ".provision/run/4194303").write_text("")  # of a process that is no more
    # It takes its time to end, for which --stop waits; by its own sleep where that is a part of busybox's shell.
    is_busybox = os.readlink(common["shell"][0]).endswith("busybox")
    late = "sleep 0.5" if is_busybox else "until [ -e /tmp/sleeps ]; do sleep 0.05; done"
    loop = ["sh", "-c", f"trap '{late}; exit 41' TERM; echo ready; while :; do sleep 0.05; done"]
    started = container.run(runtime, *quiet, "--detach", *loop, **common)
    assert started.stderr.count(b"\n") == 1
    log = container.directory / ".provision/log"
    wait_until(lambda: log.read_bytes() == b"ready\n")
    listed = container.output("", "--list", by=runtime, **common).decode()
    assert listed.startswith(f"{int(started.stdout)}\t{runtime}\t")
    assert container.output("", "--stop", by=runtime, **common) == b""
    assert container.output("", "--list", by=runtime, **common) == b""
    assert log.read_bytes() == b"ready\n"
    assert list((place / "tmp").iterdir()) == []
    called = set((place / "called").read_text().split()) - {"printf", "ls"}
    # busybox's shell takes its own for most of them.
    assert called <= CALLED[runtime]
    assert called == CALLED[runtime] or is_busybox


def test_becoming_a_user_needs_a_chroot_that_can(container: Container, small_tools: dict[str, str]) -> None:
    done = container.run("chroot", "--user", "joe", "true", shell=[small_tools["PATH"] + "/sh"], env=small_tools)
    assert done.returncode == 125
    assert done.stderr == b"start.sh: this machine's chroot can't switch to user 1000: install GNU coreutils\n"


def test_children_are_found_without_the_kernels_list(container: Container, runtime: str) -> None:
    env = {**starter(runtime)["env"], "PROVISION_TEST_NO_CHILDREN": "yes"}
    with container.running(
        runtime, "sh", "-c", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.02; done", env=env
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 41


def test_few_programs_are_started(container: Container) -> None:
    need("strace", "proot")
    trace = container.directory / "trace"
    options = starter("proot")
    container.output("proot", "true")  # tries what this proot can
    words = [str(container.script), "--runtime", "proot", "--print", "true"]
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-z", "-o", str(trace), *words],
        check=True,
        stdout=subprocess.DEVNULL,
        **options,
    )
    programs = [Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if "execve" in line]
    # ls looks at DIR; the helper is tried, and in its process the probe tells which file proot is; head reads the
    # guest's users; its env is a link here. Kernels before 6.1 have to be asked for their machine.
    named = [] if Path("/proc/sys/kernel/arch").exists() else ["uname"]
    assert programs == ["start.sh", "ls", *named, "helper", "proot-probe", "head", "readlink"]


@pytest.mark.parametrize("runtime", ["userns", "chroot"])
def test_few_programs_are_started_in_namespaces_too(container: Container, runtime: str) -> None:
    need("strace", "setpriv")
    starter(runtime)
    container.output(runtime, "true")  # makes directories
    trace = container.directory / "trace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=execve",
            "-z",
            "-o",
            trace,
            container.script,
            "--runtime",
            runtime,
            "true",
        ],
        check=True,
        **starter(runtime),
    )
    programs = [Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if "execve" in line]
    # The helper is tried, and user namespaces by it. Kernels before 6.1 have to be asked for their machine.
    named = [] if Path("/proc/sys/kernel/arch").exists() else ["uname"]
    tried = ["start.sh", "ls", *named, "helper", "unshare", "sh"]
    # head reads the guest's users; its env is a link here. The helper mounts the stage, and all in it.
    staged = ["head", "readlink", "helper", "helper"]
    # It shows all in the rootfs. One lets process 1 end with its parent, one confines the guest.
    ready = ["helper", "sh", "helper", "chroot", "env", "exe"]
    if runtime == "userns":
        # root's chroot needs no copy
        assert programs == [*tried, *staged, "helper", *ready]
    else:
        # cp of devices; cp of chroot, its --help, since root is in other groups here, and the stage is sealed
        assert programs == [*tried, *staged, "cp", "helper", "cp", "chroot", "helper", *ready]
