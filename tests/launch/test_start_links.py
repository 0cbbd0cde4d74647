"""Hard links in Termux's proot: they stay in the rootfs, and follow it when DIR moves."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provisioner.container.proot_links import find_links
from tests.support.containers import Container, hand_over, starter
from tests.support.termux import environment_with, make_hard_links, need_termux_proot, with_proot, with_similar_proot
from tests.support.tools import find_program, need

LINKED = ("a", "b", "d/c")


@pytest.fixture
def linked(container: Container) -> Container:
    """A container with a file that has three names, as Termux's proot leaves them."""
    make_hard_links(container, *LINKED)
    return container


def targets(container: Container) -> set[str]:
    """The targets of all symlinks of proot in the rootfs."""
    found = subprocess.run(
        ["find", container.rootfs, "-type", "l", "-lname", "*.l2s.*", "-printf", "%l\n"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return set(found.stdout.splitlines())


def start(container: Container, env: dict[str, str], *words: str) -> str:
    done = container.run("proot", *(words or ("true",)), env=env)
    assert done.returncode == 0, done
    return done.stderr.decode()


def test_they_are_kept_in_the_rootfs(container: Container, place: Path) -> None:
    env = with_similar_proot(place)
    (container.rootfs / ".l2s").mkdir()
    hand_over(container)
    assert start(container, env) == ""
    assert "--link2symlink" in (place / "words").read_text().splitlines()
    variables = (place / "variables").read_text().splitlines()
    assert f"PROOT_L2S_DIR={container.rootfs}/.l2s" in variables
    assert "PROOT_DONT_POLLUTE_ROOTFS=1" in variables
    assert (container.directory / ".provision/links").read_text() == f"{container.rootfs}\n"
    shown = container.run("proot", "--print", "true", env=env).stdout.decode()
    assert f"PROOT_L2S_DIR={container.rootfs}/.l2s" in shlex.split(shown)
    assert "PROOT_DONT_POLLUTE_ROOTFS=1" in shlex.split(shown.replace(";", " ;"))


def test_so_they_are_where_the_image_has_no_env(scratch: Container, place: Path) -> None:
    env = with_similar_proot(place)
    (scratch.rootfs / ".l2s").mkdir()
    hand_over(scratch)
    assert start(scratch, env, "pwd") == ""
    assert f"PROOT_L2S_DIR={scratch.rootfs}/.l2s" in (place / "variables").read_text().splitlines()
    assert "PROOT_DONT_POLLUTE_ROOTFS=1" in (place / "variables").read_text().splitlines()
    # The printed line does it as well, in an empty environment.
    shown = scratch.run("proot", "--print", "pwd", env=env).stdout.decode()
    (place / "variables").unlink()
    done = subprocess.run(["env", "-i", "sh", "-c", shown], check=False, **starter("proot") | {"env": env})
    assert done.returncode == 0
    assert f"PROOT_L2S_DIR={scratch.rootfs}/.l2s" in (place / "variables").read_text().splitlines()


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_a_place_for_them_that_is_no_directory_is_refused(container: Container, place: Path, kind: str) -> None:
    target = container.rootfs / ".l2s"
    if kind == "file":
        target.write_text("")
    else:
        target.symlink_to(place if kind == "link" else place / "nothing")
    hand_over(container)
    need("proot")
    without = place / "no-ln"
    without.mkdir()
    env = with_similar_proot(place)
    (without / "ln").write_text("#!/bin/sh\nexit 1\n")
    (without / "ln").chmod(0o755)
    done = container.run("proot", "true", env={**env, "PATH": f"{without}:{env['PATH']}"})
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode() == (
        f"start.sh: {target} is not a directory, and proot needs that name for hard links: move it away\n"
    )


@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["mksh"], ["busybox", "ash"]], ids=lambda shell: shell[-1])
def test_they_follow_a_directory_that_has_moved(linked: Container, place: Path, shell: list[str]) -> None:
    need(shell[0])
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    moved = Container(place / "it's *moved*")
    linked.directory.rename(moved.directory)
    done = moved.run("proot", "true", env=env, shell=shell)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == (
        f"start.sh: DIR was moved from {linked.directory}: changing the hard links that were made inside\n"
    )
    assert {name: (moved.rootfs / name).read_text() for name in LINKED} == dict.fromkeys(LINKED, "a")
    assert {target.rpartition("/")[0] for target in targets(moved)} == {f"{moved.rootfs}/.l2s"}
    assert (moved.directory / ".provision/links").read_text() == f"{moved.rootfs}\n"
    assert start(moved, env) == ""


def test_links_of_a_version_that_remembered_no_place_are_found(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    # Beside the files, as without PROOT_L2S_DIR, in a directory that has moved since.
    old = Path("/old/rootfs/x/rootfs")
    (linked.rootfs / "d/.l2s.f0001.0002").write_text("f")
    (linked.rootfs / "d/.l2s.f0001").symlink_to(old / "d/.l2s.f0001.0002")
    for name in ("f", "g"):
        (linked.rootfs / f"d/{name}").symlink_to(old / "d/.l2s.f0001")
    foreign = {"lost": "/other/.l2s.x0001", "plain": "/etc/passwd", "dotted": "/old/rootfs/../rootfs/d/.l2s.f0001"}
    for name, target in foreign.items():
        (linked.rootfs / name).symlink_to(target)
    hand_over(linked)
    assert start(linked, env) == ""
    assert [(linked.rootfs / f"d/{name}").read_text() for name in ("f", "g")] == ["f", "f"]
    assert (linked.rootfs / "a").read_text() == "a"
    assert {name: os.readlink(linked.rootfs / name) for name in foreign} == foreign


def test_a_copy_has_links_of_its_own(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    copy = Container(place / "copy")
    subprocess.run(["cp", "-a", linked.directory, copy.directory], check=True)
    (copy.rootfs / ".l2s/.l2s.a0001.0003").write_text("of the copy")
    start(copy, env)
    assert (copy.rootfs / "d/c").read_text() == "of the copy"
    assert (linked.rootfs / "d/c").read_text() == "a"
    assert start(linked, env) == ""
    assert find_links(linked.directory).elsewhere_count == 0


def test_a_link_that_leads_to_a_directory_stays(linked: Container, place: Path) -> None:
    """Else the program that renames would put the new link into it: here into a directory of the host."""
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    (linked.rootfs / ".l2s/.l2s.d0001").symlink_to(place / "outside")
    (place / "outside").mkdir()
    os.chmod(place / "outside", 0o777)
    (linked.rootfs / "evil").symlink_to(linked.rootfs / ".l2s/.l2s.d0001")
    copy = Container(place / "copy")
    subprocess.run(["cp", "-a", linked.directory, copy.directory], check=True)
    start(copy, env)
    assert os.listdir(place / "outside") == []
    assert (copy.rootfs / "d/c").read_text() == "a"


def test_another_name_of_the_same_directory_is_no_move(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    before = targets(linked)
    other = place / "other"
    other.symlink_to(linked.directory)
    # As a bind mount has, which has a path of its own.
    (linked.directory / ".provision/links").write_text(f"{other}/rootfs\n")
    assert start(linked, env) == ""
    assert targets(linked) == before
    assert f"PROOT_L2S_DIR={other}/rootfs/.l2s" in (place / "variables").read_text().splitlines()


@pytest.mark.parametrize("then", ["started", "moved"])
@pytest.mark.parametrize("tool", ["ln", "mv", "readlink"])
def test_whatever_ends_it_the_next_start_goes_on(linked: Container, place: Path, tool: str, then: str) -> None:
    """Killed before each of its programs in turn, and started where it is, or moved once more before."""
    env = with_similar_proot(place)
    make_hard_links(linked, "e/x", "e/y")
    assert start(linked, env) == ""
    names = {**dict.fromkeys(LINKED, "a"), "e/x": "e/x", "e/y": "e/x"}
    here, killed = linked, 0
    for number in range(1, 30):
        moved = Container(place / f"moved-{number}")
        here.directory.rename(moved.directory)
        here = moved
        if not kill_at(number, tool, here, place, env):
            break
        killed += 1
        for name, content in names.items():
            target = os.readlink(here.rootfs / name)
            assert target.endswith(f"/rootfs/.l2s/.l2s.{Path(content).name}0001")
        if then == "started":
            start(here, env)
            assert {name: (here.rootfs / name).read_text() for name in names} == names
    assert killed > 5, "or the tool was not used"
    assert start(here, env) == ""
    assert {name: (here.rootfs / name).read_text() for name in names} == names
    assert find_links(here.directory).elsewhere_count == 0
    assert [file.name for file in (here.directory / ".provision").glob("links.*")] == []


def kill_at(number: int, tool: str, container: Container, place: Path, env: dict[str, str]) -> bool:
    """Start it with a tool that kills the whole start at its use with this number; return whether that happened."""
    tools, count = place / "killing", place / "count"
    tools.mkdir(exist_ok=True)
    count.write_text("")
    count.chmod(0o666)
    (tools / tool).write_text(
        f"#!/bin/sh\necho >>{count}\n[ $(wc -l <{count}) -ne {number} ] || kill -KILL 0\n"
        f'exec {find_program(tool)} "$@"\n'
    )
    (tools / tool).chmod(0o755)
    options = {**starter("proot"), "env": {**env, "PATH": f"{tools}:{env['PATH']}"}}
    command = [str(container.script), "--runtime", "proot", "true"]
    done = subprocess.run(command, check=False, start_new_session=True, stderr=subprocess.PIPE, **options)
    return done.returncode == -signal.SIGKILL


def test_nothing_is_led_elsewhere_while_something_runs(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    before = targets(linked)
    with linked.running("proot", "sh", "-c", "echo ready; read word", env=env, stdin=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdin
        assert running.stdout.readline() == b"ready\n"
        moved = Container(place / "moved")
        linked.directory.rename(moved.directory)
        done = moved.run("proot", "true", env={**env, "PROVISION_TEST_LINK_TENTHS": "1"})
        assert (done.returncode, done.stdout) == (125, b"")
        assert done.stderr.decode() == (
            "start.sh: DIR was moved while a session ran, and its hard links have to be changed: "
            "end the session with --stop\n"
        )
        assert targets(moved) == before
        running.stdin.close()
    assert "changing the hard links" in start(moved, env)


def test_starts_at_the_same_time_lead_them_once(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    moved = Container(place / "moved")
    linked.directory.rename(moved.directory)
    command = [str(moved.script), "--runtime", "proot", "cat", "/proc/self/comm"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, **pipes, **{**starter("proot"), "env": env}) for _ in range(4)]
    results = [process.communicate(timeout=60) for process in running]
    assert [(process.returncode, result[0]) for process, result in zip(running, results, strict=True)] == [
        (0, b"cat\n")
    ] * 4, results
    assert {target.rpartition("/")[0] for target in targets(moved)} == {f"{moved.rootfs}/.l2s"}


def test_printing_moves_nothing_and_says_so(linked: Container, place: Path) -> None:
    env = with_similar_proot(place)
    assert start(linked, env) == ""
    before = targets(linked)
    moved = Container(place / "moved")
    linked.directory.rename(moved.directory)
    done = moved.run("proot", "--print", "true", env=env)
    assert done.returncode == 0
    assert done.stderr.decode() == (
        f"start.sh: DIR was moved from {linked.directory}, and its hard links still point there: "
        "start it once without --print\n"
    )
    assert targets(moved) == before


@pytest.mark.parametrize("runtime", ["proot", "userns", "chroot"])
def test_other_runtimes_can_follow_them(linked: Container, place: Path, runtime: str) -> None:
    assert start(linked, with_similar_proot(place)) == ""
    moved = Container(place / "moved")
    linked.directory.rename(moved.directory)
    for name in LINKED:
        assert moved.output(runtime, "cat", f"/{name}") == b"a"


# With a real build of Termux's proot


@pytest.fixture
def termux(place: Path) -> dict[str, str]:
    """An environment with Termux's proot, in which hard links fail on the host's side, as on Android."""
    with_proot(place, need_termux_proot())
    tools = place / "tools"
    (tools / "ln").write_text(f'#!/bin/sh\ncase $1 in -s) exec {find_program("ln")} "$@" ;; esac\nexit 1\n')
    (tools / "ln").chmod(0o755)
    return environment_with(tools)


GUEST = 'set -e; busybox() { /bin/busybox "$@"; }; '


def test_hard_links_made_inside_survive_all_that_is_done_to_them(container: Container, termux: dict[str, str]) -> None:
    script = (
        "mkdir /tmp/d; echo one >/tmp/d/x; busybox ln /tmp/d/x /tmp/d/y; busybox ln /tmp/d/x /tmp/z;"
        "busybox mv /tmp/d /tmp/e; echo two >>/tmp/e/y; cat /tmp/e/x /tmp/z;"
        "busybox cp -a /tmp/e /tmp/f; cat /tmp/f/x; busybox rm -rf /tmp/e; cat /tmp/z; busybox stat -c %h /tmp/z"
    )
    done = container.run("proot", "sh", "-c", GUEST + script, env=termux)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"one\ntwo\n" * 4 + b"1\n"


def test_they_survive_a_move_of_the_directory(container: Container, place: Path, termux: dict[str, str]) -> None:
    made = container.run("proot", "sh", "-c", GUEST + "echo 1 >/tmp/x; busybox ln /tmp/x /tmp/y", env=termux)
    assert (made.returncode, made.stderr) == (0, b"")
    assert find_links(container.directory).count == 2
    moved = Container(place / "moved")
    container.directory.rename(moved.directory)
    assert find_links(moved.directory).elsewhere == str(container.rootfs)
    done = moved.run("proot", "sh", "-c", GUEST + "echo 2 >>/tmp/y; cat /tmp/x; busybox rm /tmp/x", env=termux)
    assert (done.returncode, done.stdout) == (0, b"1\n2\n")
    assert find_links(moved.directory).elsewhere_count == find_links(moved.directory).lost_count == 0
    # A copy is independent of it.
    copy = Container(place / "copy")
    shutil.copytree(moved.directory, copy.directory, symlinks=True)
    hand_over(copy)
    assert copy.run("proot", "sh", "-c", "echo 3 >>/tmp/y", env=termux).returncode == 0
    assert moved.run("proot", "cat", "/tmp/y", env=termux).stdout == b"1\n2\n"


def test_nothing_is_left_in_the_rootfs_when_it_is_killed(container: Container, termux: dict[str, str]) -> None:
    before = {path.name for path in container.rootfs.iterdir()} | {".l2s", "dev", "sys"}
    words = ("--bind", "/bin:/vendor/x", "--bind", "/bin:/apex", "sh", "-c", "echo ready; read word")
    with container.running("proot", *words, env=termux, stdin=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        os.killpg(running.pid, signal.SIGKILL)
    assert {path.name for path in container.rootfs.iterdir()} <= before


def test_names_run_out_after_999(container: Container, termux: dict[str, str]) -> None:
    """proot then takes the name of another file, whose content is lost; `doctor` knows before."""
    script = (
        "mkdir -p /tmp/n; i=0; while [ $i -lt 12 ]; do i=$((i + 1)); mkdir /tmp/n/$i; echo $i >/tmp/n/$i/f;"
        "busybox ln /tmp/n/$i/f /tmp/n/$i/g; done"
    )
    (container.rootfs / ".l2s").mkdir()
    for number in range(1, 990):
        (container.rootfs / f".l2s/.l2s.f{number:04}").write_text("")
    hand_over(container)
    assert find_links(container.directory).used_up == []
    done = container.run("proot", "sh", "-c", GUEST + script, env=termux)
    assert done.stderr == b"ln: /tmp/n/11/g: Operation not permitted\n"
    assert container.run("proot", "cat", "/tmp/n/10/f", env=termux).stdout == b"11\n"
    assert not (container.rootfs / "tmp/n/11/f").exists()
    assert find_links(container.directory).used_up == ["f"]
