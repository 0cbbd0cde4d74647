"""What can't be changed, and what isn't kept: --read-only, binds with :ro, and --ephemeral."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.containers import SHELLS, Container, make_container, starter
from tests.support.disks import disk
from tests.support.tools import find_program, need, need_root, own, user_id
from tests.support.trees import tree_of

pytestmark = pytest.mark.slow

NAMESPACES = ["userns", "chroot"]
CHANGE = (
    "echo new >/etc/new; echo changed >/etc/passwd; busybox rm -r /home/joe; mkdir /home/joe; echo x >/home/joe/x;"
    "busybox mv /root /moved; busybox chmod 0 /home; cat /etc/new"
)
"""Changes of each kind, with the content of a new file as output."""


@pytest.fixture(params=NAMESPACES)
def with_mounts(request: pytest.FixtureRequest) -> str:
    """The runtimes that have mounts."""
    starter(request.param)
    return str(request.param)


@pytest.mark.parametrize("user", ["root", "joe"])
def test_nothing_in_a_read_only_rootfs_can_be_written(container: Container, with_mounts: str, user: str) -> None:
    (container.rootfs / "tmp").chmod(0o777)
    guest = "for place in / /tmp /etc /home; do (>$place/new) 2>/dev/null && echo $place; done; >/dev/null && echo null"
    assert container.output(with_mounts, "--read-only", "--user", user, "sh", "-c", guest) == b"null\n"


def test_what_is_bound_into_a_read_only_rootfs_can_be_written(
    container: Container, place: Path, with_mounts: str
) -> None:
    (place / "data").mkdir()
    own(place / "data")
    container.output(with_mounts, "--read-only", "--bind", f"{place}/data:/new/data", "touch", "/new/data/file")
    assert (place / "data/file").exists()


def test_proot_says_that_it_can_not(container: Container) -> None:
    done = container.run("proot", "--read-only", "true")
    assert (done.returncode, done.stderr) == (
        125,
        b"start.sh: --read-only needs mounts, which proot doesn't have: use --runtime userns\n",
    )
    done = container.run("proot", "--ephemeral", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(b"start.sh: --ephemeral needs user namespaces (--runtime userns), or a file system")


@pytest.mark.parametrize("option", [["--read-only"], ["--ephemeral"], ["--bind", "/etc:/mnt:ro"]])
def test_auto_takes_the_runtime_that_can(container: Container, option: list[str]) -> None:
    need("proot")
    starter("userns")
    with container.running("", *option, "sh", "-c", "echo ready; sleep 60") as process:
        assert process.stdout
        process.stdout.readline()
        assert container.output("", "--list").split(b"\t")[1] == b"userns"
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("shell", SHELLS)
def test_read_only_binds(container: Container, place: Path, with_mounts: str, shell: str) -> None:
    need(SHELLS[shell][0])
    data = place / "da ta\\%s"
    data.mkdir()
    (data / "file").write_text("content")
    for path in (data, data / "file"):
        own(path)
    binds = ["--bind", f"{data}:/mnt/a:ro", "--bind", f"{data}/file:/mnt/file:ro", "--bind", f"{data}:/mnt/b:rw"]
    guest = (
        "(>/mnt/a/new); (echo x >>/mnt/file); (echo x >>/mnt/a/file); echo y >/mnt/b/new; cat /mnt/a/file /mnt/a/new"
    )
    done = container.run(with_mounts, *binds, "sh", "-c", guest, shell=SHELLS[shell])
    assert done.stdout == b"contenty\n"
    assert done.stderr.count(b"Read-only file system") == 3
    assert (data / "file").read_text() == "content"


def test_a_read_only_bind_alone_keeps_its_path(container: Container, place: Path, with_mounts: str) -> None:
    (place / "data").mkdir()
    own(place / "data")
    done = container.run(with_mounts, "--bind", f"{place}/data:ro", "touch", f"{place}/data/x")
    assert b"Read-only file system" in done.stderr
    (place / "data:ro").mkdir()
    own(place / "data:ro")
    container.output(with_mounts, "--bind", f"{place}/data:ro:/mnt", "touch", "/mnt/x")
    assert (place / "data:ro/x").exists()


@pytest.mark.parametrize("runtime", NAMESPACES)
def test_mounts_below_a_read_only_bind_are_read_only_too(container: Container, place: Path, runtime: str) -> None:
    """Also those with flags that a user may not take away."""
    need_root()
    (place / "data/be low").mkdir(parents=True)
    user = f"setpriv --reuid {user_id()} --regid {user_id()} --clear-groups" if runtime == "userns" else ""
    script = f"mount -t tmpfs -o nosuid,nodev tmpfs '{place}/data/be low' && exec {user} \"$@\""
    options = {**starter(runtime), "user": None, "group": None, "extra_groups": None}
    words = ["--bind", f"{place}/data:/mnt:ro", "sh", "-c", "(>'/mnt/be low/x'); (>/mnt/x); exit 0"]
    done = container.run(runtime, *words, shell=["unshare", "-m", "sh", "-c", script, "sh"], **options)
    assert done.stderr.count(b"Read-only file system") == 2, done


def test_proot_says_that_a_bind_can_be_written_to(container: Container, place: Path) -> None:
    container.set(default_binds=(f"{place}:/mnt:ro",))
    done = container.run("proot", "true")
    assert (done.returncode, done.stderr.decode()) == (
        0,
        f"start.sh: proot can't bind read-only: programs in the container can write to {place}\n",
    )


@pytest.mark.parametrize("kernel", ["6.18.1-generic", "6.1.0-9-amd64"])
def test_changes_of_a_run_are_thrown_away(container: Container, with_mounts: str, kernel: str) -> None:
    """On kernels whose tmpfs has no attributes of users, they are kept beside rootfs meanwhile."""
    before = tree_of(container.rootfs)
    env = {**starter(with_mounts)["env"], "PROVISION_TEST_KERNEL": kernel}
    for _ in range(2):
        done = container.run(with_mounts, "--ephemeral", "sh", "-c", f"{CHANGE}; exit 3", env=env)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"new\n", b"")
    assert tree_of(container.rootfs) == before
    folder = container.directory / ".provision/ephemeral"
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("tools", ["coreutils", "busybox", "toybox"])
def test_the_root_has_its_own_mode_and_owner(
    container: Container, place: Path, with_mounts: str, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tools != "coreutils":
        need(tools)
        (place / "tools").mkdir()
        for name in ("ls", "chmod", "chown", "mkdir"):
            (place / "tools" / name).symlink_to(find_program(tools) or "")
        monkeypatch.setenv("PATH", f"{place}/tools:{os.environ['PATH']}")
    ask = ("busybox", "stat", "-c", "%a %u %g", "/")
    for mode in (0o700, 0o755, 0o1777, 0o1751, 0o2775, 0o3770, 0o7777, 0o7700):
        container.rootfs.chmod(mode)
        asked = container.output(with_mounts, *ask)
        assert asked.split()[0] == b"%o" % mode
        assert container.output(with_mounts, "--ephemeral", *ask) == asked


def test_a_run_that_joins_sees_the_changes(container: Container, with_mounts: str) -> None:
    with container.running(with_mounts, "--ephemeral", "sh", "-c", f"{CHANGE}; sleep 60") as process:
        assert process.stdout
        assert process.stdout.readline() == b"new\n"
        assert container.output("", "--exec", "cat", "/etc/new", "/home/joe/x", by=with_mounts) == b"new\nx\n"
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("kernel", ["6.18.1-generic", "6.1.0-9-amd64"])
def test_a_killed_run_leaves_nothing_after_the_next_start(container: Container, with_mounts: str, kernel: str) -> None:
    env = {**starter(with_mounts)["env"], "PROVISION_TEST_KERNEL": kernel}
    before = [tree_of(container.rootfs / name) for name in ("etc", "home", "root")]
    with container.running(with_mounts, "--ephemeral", "sh", "-c", f"{CHANGE}; sleep 60", env=env) as process:
        assert process.stdout
        process.stdout.readline()
        folder = container.directory / ".provision/ephemeral"
        if with_mounts == "userns" and kernel.startswith("6.1."):
            assert [path.name for path in folder.iterdir()] == [str(process.pid)]
            # Others are no leftovers.
            container.output(with_mounts, "true", env=env)
            assert [path.name for path in folder.iterdir()] == [str(process.pid)]
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    container.output(with_mounts, "true", env=env)
    assert not folder.exists() or not list(folder.iterdir())
    assert [tree_of(container.rootfs / name) for name in ("etc", "home", "root")] == before


def test_changes_of_a_killed_run_with_the_same_number_are_gone(container: Container, with_mounts: str) -> None:
    """Where processes are counted to 32768, as on many phones, their numbers come again soon."""
    folder = container.directory / ".provision/ephemeral"
    leave = 'umask 0 && mkdir -p "$0/$$/files/etc" && echo old >"$0/$$/files/etc/left" && exec "$@"'
    env = {**starter(with_mounts)["env"], "PROVISION_TEST_KERNEL": "6.1.0-9-amd64"}
    words = ("--ephemeral", "--trust-dir", "sh", "-c", "[ ! -e /etc/left ]")
    assert container.run(with_mounts, *words, shell=["sh", "-c", leave, str(folder)], env=env).returncode == 0


RM = """\
#!/bin/sh
tries=100
while [ "$tries" -gt 0 ] && grep -aq SECONDS /proc/[0-9]*/cmdline 2>/dev/null; do
    tries=$((tries - 1))
    sleep 0.1
done
if [ "$tries" -gt 0 ]; then echo "$*" >>LOG; else echo "while the guest runs: $*" >>LOG; fi
PATH=/usr/bin:/bin exec rm "$@"
"""
"""An rm that writes down what it is for, and whether processes of the guest are still there after a while."""


@pytest.mark.parametrize("shell", SHELLS)
def test_all_processes_have_ended_before_what_they_changed_is_removed(
    container: Container, place: Path, shell: str
) -> None:
    """They could swap directories for links meanwhile, which busybox's rm follows."""
    need(SHELLS[shell][0])
    options = starter("userns")
    log, program, seconds = place / "log", place / "bin/rm", 100000 + os.getpid()
    program.parent.mkdir()
    log.touch()
    own(log)
    program.write_text(RM.replace("SECONDS", str(seconds)).replace("LOG", str(log)))
    program.chmod(0o755)
    env = {**options["env"], "PROVISION_TEST_KERNEL": "6.1.0-9-amd64"}
    env["PATH"] = f"{program.parent}:{env['PATH']}"
    # The words of start.sh have no such number.
    guest = f"busybox setsid busybox sleep $((100000 + {os.getpid()})) & echo begun; exit 4"
    done = container.run("userns", "--ephemeral", "sh", "-c", guest, env=env, shell=SHELLS[shell])
    assert (done.returncode, done.stdout, done.stderr) == (4, b"begun\n", b"")
    removed = [line for line in log.read_text().splitlines() if "/ephemeral/" in line]
    assert removed
    assert not [line for line in removed if line.startswith("while")]


@pytest.mark.parametrize("ending", ["end", "SIGKILL"])
def test_proot_runs_in_a_copy_where_copies_cost_nothing(place: Path, ending: str) -> None:
    need_root()
    need("proot")
    with disk(place, "xfs") as volume:
        volume.path.chmod(0o755)
        container = make_container(volume.path / "container")
        before = tree_of(container.rootfs / "etc")
        folder = container.directory / ".provision/ephemeral"
        guest = "echo new >/etc/new; cat /etc/new; busybox mkdir -p /made/in; busybox chmod 555 /made"
        if ending == "end":
            done = container.run("proot", "--ephemeral", "sh", "-c", f"{guest}; exit 3")
            assert (done.returncode, done.stdout, done.stderr) == (3, b"new\n", b"")
        else:
            with container.running("proot", "--ephemeral", "sh", "-c", f"{guest}; sleep 60") as process:
                assert process.stdout
                process.stdout.readline()
                assert container.output("", "--exec", "cat", "/etc/new", by="proot") == b"new\n"
                process.send_signal(signal.SIGKILL)
                process.wait(60)
            assert list(folder.iterdir())
            container.output("proot", "true")
        assert tree_of(container.rootfs / "etc") == before
        assert not (container.rootfs / "made").exists()
        assert list(folder.iterdir()) == []


def test_without_namespaces_it_is_refused(container: Container) -> None:
    for option in ("--read-only", "--ephemeral"):
        done = container.run("chroot", "--no-namespace", option, "true")
        assert (done.returncode, done.stderr.decode()) == (
            125,
            "start.sh: --no-namespace mounts nothing: leave out --read-only and --ephemeral\n",
        )
