"""start.sh --exec: a command in a container that runs already, as with `docker exec`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import SHELLS, Container, make_container, starter, user_of
from tests.support.tools import need, need_root

pytestmark = pytest.mark.slow

LOOP = "echo ready; while :; do sleep 0.05; done"
RIGHTS = "busybox grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; umask"


@contextmanager
def session(container: Container, runtime: str, *args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A container that runs while the test does."""
    with container.running(runtime, *args, **options) as process:
        assert process.stdout
        while process.stdout.readline() not in (b"ready\n", b""):
            pass
        yield process
        process.terminate()
        process.wait(60)


def inside(container: Container, runtime: str, *args: str, **options: Any) -> bytes:
    """The standard output of a command in the session that runs."""
    return container.output("", "--exec", *args, by=runtime, **options)


def test_processes_and_files_are_those_of_the_session(container: Container, runtime: str) -> None:
    guest = f"echo content >/run/here || echo content >/tmp/here; exec sh -c '{LOOP}' name-of-it"
    (container.rootfs / "run").mkdir(exist_ok=True)
    (container.rootfs / "run").chmod(0o777)
    with session(container, runtime, "sh", "-c", guest):
        assert inside(container, runtime, "cat", "/run/here") == b"content\n"
        count = "set -- /proc/[0-9]*; busybox grep -l name-of-it /proc/[0-9]*/cmdline 2>/dev/null; exit 0"
        lines = inside(container, runtime, "sh", "-c", count).split()
        assert len(lines) >= 2  # it, and this one
        namespaces = "for name in mnt pid ipc uts user; do busybox readlink /proc/self/ns/$name; done"
        if runtime != "proot":
            host = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "ipc", "uts")]
            found = inside(container, runtime, "sh", "-c", namespaces).decode().split()
            assert not set(host) & set(found)
            assert inside(container, runtime, "sh", "-c", namespaces).decode().split() == found


@pytest.mark.parametrize("user", ["root", "joe"])
@pytest.mark.parametrize("options", [[], ["--no-new-privs"], ["--cap-add", "NET_ADMIN"]])
def test_rights_are_those_of_the_container_s_own_command(
    container: Container, runtime: str, user: str, options: list[str]
) -> None:
    (container.rootfs / "tmp").chmod(0o777)
    guest = f"{{ {RIGHTS}; }} >/tmp/own; {LOOP}"
    with session(container, runtime, "--user", user, *options, "sh", "-c", guest):
        assert inside(container, runtime, "sh", "-c", RIGHTS) == (container.rootfs / "tmp/own").read_bytes()


@pytest.mark.parametrize("shell", SHELLS)
def test_options_are_the_session_s_and_then_those_that_are_typed(
    container: Container, runtime: str, shell: str, place: Path
) -> None:
    need(SHELLS[shell][0])
    (place / "a b").mkdir()
    (place / "a b/file").write_text("bound\n")
    options = ["--env", "A=it's\n1", "--env", "B=1", "--user", "joe", "--workdir", "/home", "--hostname", "named"]
    ask = 'pwd; id -u; printf "%s|%s|%s|%s|%s\\n" "$A" "$B" "$C" "$HOSTNAME" "$USER"; cat /mnt/file'
    with session(container, runtime, *options, "--bind", "a b:/mnt", "sh", "-c", LOOP, cwd=place):
        own = inside(container, runtime, "sh", "-c", ask, shell=SHELLS[shell])
        assert own == b"/home\n1000\nit's\n1|1||named|joe\nbound\n"
        typed = ["--user", "root", "--env", "B=2", "--env=C=3", "--workdir", "/tmp"]
        other = inside(container, runtime, *typed, "--", "sh", "-c", ask, shell=SHELLS[shell])
        assert other == b"/tmp\n0\nit's\n1|2|3|named|root\nbound\n"


def test_the_image_s_entrypoint_and_command_are_left_out(container: Container, runtime: str) -> None:
    container.set(image_entrypoint=("sh", "-c"), image_command=(LOOP,))
    with session(container, runtime):
        assert inside(container, runtime, "printf", "%s", "said") == b"said"
        assert inside(container, runtime, "--shell", "--", "-c", "echo $0 $-").startswith(b"/bin/sh ")
        done = container.run("", "--exec", by=runtime)
        assert (done.returncode, done.stderr) == (125, b"start.sh: --exec needs a command, or --shell\n")


def test_status_and_signals_are_the_command_s(container: Container, runtime: str) -> None:
    guest = "trap 'echo got; exit 41' TERM; echo ready; while :; do sleep 0.02; done"
    with session(container, runtime, "sh", "-c", LOOP) as main:
        for words, status in ((["sh", "-c", "exit 7"], 7), (["nonesuch"], 127), (["/etc/passwd"], 126)):
            assert container.run("", "--exec", *words, by=runtime).returncode == status
        with container.running("", "--exec", "sh", "-c", guest, **user_of(runtime)) as process:
            assert process.stdout
            process.stdout.readline()
            process.terminate()
            assert process.stdout.read() == b"got\n"
            assert process.wait(60) == 41
        assert main.poll() is None


def test_the_command_has_no_files_of_ours(container: Container, runtime: str) -> None:
    with session(container, runtime, "sh", "-c", LOOP):
        guest = 'set -- /proc/self/fd/*; shift 3; for file; do busybox readlink "$file"; done; :'
        assert inside(container, runtime, "sh", "-c", guest) == b""


def test_nothing_runs(container: Container, runtime: str) -> None:
    done = container.run("", "--exec", "true", by=runtime)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode() == (
        f"start.sh: nothing runs from {container.directory}: start it with {container.script} --detach\n"
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_that_helps_can_be_copied(place: Path, shell: str) -> None:
    """Also where the name of DIR can't be shown as it is. Newlines at its end are before start.sh."""
    need(SHELLS[shell][0])
    odd = make_container(place / "a\nb\x1b '$(c)' %s!\\é\n")
    for words, after in ((["true"], " --detach"), (["--session", "7", "true"], " --list shows them")):
        done = odd.run("", "--exec", *words, by="proot", shell=SHELLS[shell])
        assert done.returncode == 125
        line = done.stderr.decode().removesuffix("\n")
        assert line.isprintable()
        copied = line[line.index('"$(') :].removesuffix(after)
        ended = subprocess.run([*SHELLS[shell], "-c", f"printf %s {copied}"], stdout=subprocess.PIPE, check=True)
        assert ended.stdout == os.fsencode(odd.script)


def test_one_of_several_has_to_be_chosen(container: Container, runtime: str) -> None:
    with (
        session(container, runtime, "--env", "NUMBER=1", "sh", "-c", LOOP) as first,
        session(container, runtime, "--env", "NUMBER=2", "sh", "-c", LOOP) as second,
    ):
        done = container.run("", "--exec", "true", by=runtime)
        assert done.returncode == 125
        chosen = sorted([first.pid, second.pid])
        assert [int(pid) for pid in re.findall(rb"(\d+) \(sh -c", done.stderr)] == chosen
        assert b"--session" in done.stderr
        for number, process in enumerate((first, second), 1):
            output = inside(container, runtime, "--session", str(process.pid), "sh", "-c", "echo $NUMBER")
            assert output == b"%d\n" % number
        done = container.run("", "--exec", "--session", "1", "true", by=runtime)
        assert (done.returncode, b"no session 1 runs from" in done.stderr) == (125, True)


@pytest.mark.parametrize(
    "option", ["--bind=/etc:/mnt", "--cap-add=ALL", "--privileged", "--ephemeral", "--runtime=proot"]
)
def test_what_belongs_to_the_start_is_refused(container: Container, option: str) -> None:
    with session(container, "userns", "sh", "-c", LOOP):
        done = container.run("", "--exec", option, "true", by="userns")
    name = option.partition("=")[0]
    assert done.returncode == 125
    assert done.stderr.decode() == (
        f"start.sh: --exec takes {name} from the session: leave it out, or use it when the session starts\n"
    )


def test_it_is_no_session_and_ends_with_its_own(container: Container, runtime: str) -> None:
    with (
        session(container, runtime, "sh", "-c", LOOP) as main,
        session(container, "", "--exec", "sh", "-c", LOOP, **user_of(runtime)) as process,
    ):
        (line,) = container.output("", "--list", by=runtime).splitlines()
        assert line.startswith(b"%d\t" % main.pid)
        assert inside(container, runtime, "printf", "x") == b"x"  # there is nothing to choose
        container.output("", "--stop", by=runtime)
        assert process.wait(60) in (137, 143)
        assert main.wait(60) == 143
    assert container.output("", "--list", by=runtime) == b""


def test_a_number_that_another_process_has_got_is_no_session(container: Container, runtime: str) -> None:
    """Not even one that has namespaces."""
    with session(container, runtime, "sh", "-c", LOOP) as main:
        file = container.directory / ".provision/run" / str(main.pid)
        other = subprocess.Popen(["sleep", "60"])
        try:
            file.rename(file.with_name(str(other.pid)))
            done = container.run("", "--exec", "true", by=runtime)
            assert (done.returncode, b"nothing runs from" in done.stderr) == (125, True)
        finally:
            file.with_name(str(other.pid)).rename(file)
            other.kill()
            other.wait()


def test_a_process_without_namespaces_is_not_joined(container: Container) -> None:
    need_root()
    with session(container, "chroot", "sh", "-c", LOOP) as main, subprocess.Popen(["sleep", "60"]) as other:
        try:
            folder = container.directory / ".provision/run"
            text = (folder / str(main.pid)).read_text().partition("\n")[2]
            start = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
            (folder / str(other.pid)).write_text(f"{start}\n{text}")
            done = container.run("", "--exec", "--session", str(other.pid), "true", by="chroot")
            assert (done.returncode, done.stderr) == (
                125,
                f"start.sh: session {other.pid} has no namespaces of its own\n".encode(),
            )
        finally:
            other.kill()


def test_somebody_else_s_session_is_not_joined(container: Container) -> None:
    need_root()
    with session(container, "chroot", "sh", "-c", LOOP) as main:
        done = container.run("", "--exec", "true", by="proot")
        assert (done.returncode, done.stderr) == (
            125,
            f"start.sh: session {main.pid} belongs to another user\n".encode(),
        )


def test_it_waits_for_a_session_that_starts(container: Container, runtime: str) -> None:
    for _ in range(5):
        container.run(runtime, "--detach", "sh", "-c", LOOP)
        assert inside(container, runtime, "sh", "-c", "echo $HOSTNAME") == b"container\n"
        container.output("", "--stop", by=runtime)


def test_in_the_background(container: Container, runtime: str) -> None:
    with session(container, runtime, "sh", "-c", LOOP):
        container.run("", "--exec", "--detach", "sh", "-c", "echo said; echo >/tmp/done; exec sleep 60", by=runtime)
        inside(container, runtime, "sh", "-c", "until [ -e /tmp/done ]; do sleep 0.02; done")
        container.output("", "--stop", by=runtime)
    assert (container.directory / ".provision/log").read_text().startswith("said\n")


@pytest.mark.parametrize(("runtime", "user"), [("userns", "root"), ("chroot", "root"), ("chroot", "joe")])
def test_the_session_s_root_can_not_follow_what_joins_to_the_host(
    container: Container, place: Path, runtime: str, user: str
) -> None:
    """What has not entered the rootfs yet has the host's root directory, and is in the session's /proc already."""
    (place / "canary").write_text("")
    (place / "canary").chmod(0o644)
    attack = f"for p in /proc/[0-9]*; do [ ! -e $p/root{place}/canary ] || echo won; done"
    guest = f"echo ready; while :; do {attack}; done"
    with session(container, runtime, "sh", "-c", guest, stdout=subprocess.PIPE) as process:
        for _ in range(20):
            inside(container, runtime, "--user", user, "true")
        process.terminate()
        assert process.stdout
        assert process.stdout.read() == b""
    assert not list((container.directory / ".provision/run").glob("helper.*"))


def test_another_user_needs_an_id(container: Container) -> None:
    with session(container, "userns", "sh", "-c", LOOP) as main:
        done = container.run("", "--exec", "--user", "joe", "true", by="userns")
        assert (done.returncode, done.stderr.decode()) == (
            125,
            f"start.sh: session {main.pid} has one id, which is root's: start another session with --user joe\n",
        )


def test_it_can_be_printed(container: Container, runtime: str) -> None:
    with session(container, runtime, "sh", "-c", LOOP):
        shown = inside(container, runtime, "--print", "printf", "it's")
        done = subprocess.run([b"sh", b"-c", shown], capture_output=True, check=True, **starter(runtime))
        assert done.stdout == b"it's"


def test_with_the_tools_of_busybox(container: Container, small_tools: dict[str, str]) -> None:
    env = {**starter("userns")["env"], **small_tools}
    options = {**starter("userns"), "env": env}
    with session(container, "userns", "sh", "-c", LOOP, **options):
        done = container.run("", "--exec", "printf", "x", **options)
        if os.readlink(Path(small_tools["PATH"], "cat")).endswith("toybox"):
            assert (done.returncode, done.stdout) == (125, b"")
            assert done.stderr == b"start.sh: --exec needs util-linux's nsenter here: apt install util-linux\n"
        else:
            assert (done.returncode, done.stdout) == (0, b"x"), done


def test_inside_options_are_for_start_sh_itself(container: Container, runtime: str) -> None:
    with session(container, runtime, "sh", "-c", LOOP) as main:
        words = ["--inside", "chroot", "--exec", "--joined", str(main.pid), "true"]
        done = container.run("", *words, by=runtime)
        assert done.returncode == 125


@pytest.mark.parametrize("shell", SHELLS)
def test_where_the_machine_is_a_chroot_it_says_nothing(container: Container, place: Path, shell: str) -> None:
    """The rootfs is above the root of such a machine then, where no shell finds a name for it."""
    need_root()
    need("unshare", "mount", "chroot", SHELLS[shell][0])
    (place / "machine").mkdir()
    commands = """
        "$@" --runtime chroot sleep 60 2>/dev/null &
        until "$@" --exec true 2>/dev/null; do kill -0 $! && sleep 0.1 || exit; done
        "$@" --exec --workdir /etc sh -c 'pwd; umask'
        kill $! && wait
    """
    enter = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
    words: list[str | Path] = ["sh", "-c", enter, place / "machine", "sh", "-c", commands, "sh", *SHELLS[shell]]
    options = {**starter("chroot"), "stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60}
    done = subprocess.run(["unshare", "-m", *words, container.script], **options, check=False)
    assert (done.stdout, done.stderr) == (b"/etc\n0022\n", b""), done
