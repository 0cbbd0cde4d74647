"""What `--runtime auto` takes is what starts, as trying shows, and it says why it passes others over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.containers import Container, make_scratch, need_user_namespaces, starter
from tests.support.doctor import checks_of, doctor, write_script
from tests.support.tools import find_program, need, need_root, own, user_id, without_namespaces

# proot executes its loader in /tmp. The place of the container is bound where it stays executable.
NO_EXEC_TMP = """
set -e
mount --bind "$1" /media
mount -t tmpfs -o noexec tmpfs /tmp
chmod 1777 /tmp
cd / && user=$2 && shift 2
exec setpriv --reuid="$user" --regid="$user" --clear-groups -- env -i "$@"
"""

NO_EXEC_DIR = """
set -e
mount -t tmpfs -o noexec tmpfs /media
cp -a "$1" /media/copy
cd / && user=$2 && shift 2
exec setpriv --reuid="$user" --regid="$user" --clear-groups -- env -i "$@"
"""


def tell(container: Container, *options: str, shell: list[str] | None = None, **variables: str) -> tuple[str, str]:
    """Return the first program that start.sh prints it would start, and what it says about that."""
    environment = {**starter("proot")["env"], **variables}
    done = container.run("", "--verbose", "--print", *options, "true", shell=shell or [], env=environment)
    words = done.stdout.decode().replace("(", " ").split()
    names = [Path(word).name for word in words if Path(word).name in ("proot", "unshare")]
    return (names or [""])[0], done.stderr.decode()


def path_with(place: Path, proot: str) -> str:
    """Return a PATH on which a script with these lines is called proot."""
    (place / "programs").mkdir(exist_ok=True)
    write_script(place / "programs/proot", proot)
    return f"{place}/programs:{os.environ['PATH']}"


def in_no_exec_tmp(container: Container, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run start.sh as the unprivileged user where /tmp is mounted noexec."""
    need_root()
    need("unshare", "setpriv", "proot")
    place = container.directory.parent
    environment = [f"{name}={value}" for name, value in starter("proot")["env"].items()]
    command = ["unshare", "-m", "sh", "-c", NO_EXEC_TMP, "sh", str(place), str(user_id()), *environment]
    command.append(f"/media/{container.directory.name}/start.sh")
    return subprocess.run([*command, *words], capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=60)


def without_root_emulation(container: Container) -> None:
    """Take away what makes user namespaces better than proot."""
    (container.directory / ".provision/seccomp.bpf").unlink()


def test_users_get_namespaces_where_a_filter_emulates_root(container: Container) -> None:
    need("proot", "unshare")
    need_user_namespaces(by_root=False)
    assert tell(container) == ("unshare", "")
    no_namespaces = "start.sh: not userns: the kernel refuses user namespaces, or unshare or mount is missing\n"
    assert tell(container, shell=without_namespaces()) == ("proot", no_namespaces)
    without_root_emulation(container)
    assert tell(container) == ("proot", "")


@pytest.mark.parametrize("tool", ["usr/local/bin/gosu", "sbin/su-exec"])
def test_an_image_whose_entrypoint_becomes_another_user_gets_proot(container: Container, tool: str) -> None:
    need("proot", "unshare")
    need_user_namespaces(by_root=False)
    path = container.rootfs / tool
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    said = f"start.sh: not userns: the image's {path.name} needs more ids: --ids many\n"
    assert tell(container) == ("proot", said)
    (container.directory / ".provision/proot.bpf").unlink()
    assert tell(container)[0] == "unshare", "one that shows files of the host is worse"


def test_a_proot_that_cannot_start_is_passed_over(container: Container) -> None:
    without_root_emulation(container)
    done = in_no_exec_tmp(container, "--verbose", "sh", "-c", "echo $$; cat /proc/1/comm")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] != b"1"
    assert b"start.sh: not proot: it can't start\n" in done.stderr
    assert in_no_exec_tmp(container, "sh", "-c", "exit 7").returncode == 7
    assert in_no_exec_tmp(container, "--runtime", "proot", "true").returncode != 0
    assert not (container.directory / ".provision/proot-facts").exists(), "a trial that failed is not remembered"


def test_what_is_remembered_of_proot_is_forgotten_when_it_stops_working(container: Container) -> None:
    assert container.run("proot", "true").returncode == 0
    facts = container.directory / ".provision/proot-facts"
    # In there the path of the container differs, but not proot and the system.
    assert facts.exists()
    without_root_emulation(container)
    done = in_no_exec_tmp(container, "true")
    assert done.stderr, done
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        125,
        b"start.sh: proot can't start programs any more: start again, to use another runtime if one works",
    )
    assert not facts.exists()
    assert in_no_exec_tmp(container, "sh", "-c", "exit 7").returncode == 7


def test_a_command_that_fails_where_nobody_reports_is_no_failure_of_proot(place: Path) -> None:
    need("proot")
    target = make_scratch(place / "scratch", image_command=("/app/cat", "/missing"))
    assert target.run("proot").returncode == 1
    facts = target.directory / ".provision/proot-facts"
    assert facts.exists()
    # As where the helper can't report.
    script = target.script.read_text()
    target.script.write_text(script.replace("    find_reporter\n", "    reporter='' report=''\n"))
    for _ in range(2):
        done = target.run("proot")
        assert (done.returncode, b"can't start programs any more" in done.stderr) == (1, False), done
        assert facts.exists(), "the trial that came after the failure went well"


def test_what_is_remembered_of_proot_is_not_tried_again(container: Container, place: Path) -> None:
    need("proot")
    count = place / "count"
    without_root_emulation(container)
    path = path_with(place, f'echo x >>{count}\nexec {find_program("proot")} "$@"')
    own(place / "programs")
    for _ in range(3):
        assert tell(container, PATH=path)[0] == "proot"
    assert len(count.read_text().split()) == 2, "its help, and one program"


def test_an_option_of_the_same_name_that_takes_a_value_is_another_one(container: Container, place: Path) -> None:
    """proot 5.4.0 has -p too, which takes ports."""
    need("proot")
    shown = "  -p *string*, --port=*string*\\n\\tMap ports.\\n  --kill-on-exit\\n\\tEnd all.\\n"
    path = path_with(place, f'[ "$1" != --help ] || exec printf "{shown}"\nexec {find_program("proot")} "$@"')
    environment = {**starter("proot")["env"], "PATH": path}
    words = container.run("", "--runtime", "proot", "--print", "true", env=environment).stdout.decode().split()
    assert "--kill-on-exit" in words
    assert "-p" not in words


def test_a_proot_that_starts_only_without_seccomp_gets_that(container: Container, place: Path) -> None:
    need("proot")
    without_root_emulation(container)
    path = path_with(place, f'[ -n "${{PROOT_NO_SECCOMP-}}" ] || exit 1\nexec {find_program("proot")} "$@"')
    environment = {**starter("proot")["env"], "PATH": path}
    done = container.run("", "sh", "-c", "echo started", env=environment)
    assert (done.returncode, done.stdout) == (0, b"started\n"), done
    assert not (container.directory / ".provision/proot-facts").exists(), "a better proot would never be noticed"
    printed = container.run("", "--print", "true", env=environment).stdout
    assert b"export PROOT_NO_SECCOMP=1; " in printed


def test_where_user_namespaces_are_refused_too_both_are_named(container: Container, place: Path) -> None:
    need("unshare")
    path = path_with(place, "exit 1")
    python = ["/usr/bin/env", f"PATH={path}", *without_namespaces()]
    name, said = tell(container, shell=python, PATH=os.environ["PATH"])
    assert (name, said.splitlines()) == (
        "",
        [
            "start.sh: not userns: the kernel refuses user namespaces, or unshare or mount is missing",
            "start.sh: not proot: it can't start",
            "start.sh: proot can't start here, and user namespaces don't work: run provision doctor",
        ],
    )


def test_a_proot_that_shows_files_of_the_host_comes_last(container: Container) -> None:
    need("proot", "unshare")
    need_user_namespaces(by_root=False)
    without_root_emulation(container)
    assert tell(container) == ("proot", "")
    (container.directory / ".provision/proot.bpf").unlink()
    name, said = tell(container)
    assert (name, said) == (
        "unshare",
        "start.sh: not proot: programs inside could see files of this machine, and DIR has no filter for that\n",
    )
    name, said = tell(container, shell=without_namespaces())
    assert name == "proot"
    assert "programs inside can see files of this machine" in said.splitlines()[-1]


@pytest.mark.parametrize("runtime", ["proot", "userns"])
def test_a_file_system_mounted_noexec_is_named(container: Container, runtime: str) -> None:
    need_root()
    need("unshare", "setpriv")
    environment = [f"{name}={value}" for name, value in starter("proot")["env"].items()]
    command = ["unshare", "-m", "sh", "-c", NO_EXEC_DIR, "sh", str(container.directory), str(user_id()), *environment]
    words = ["sh", "/media/copy/start.sh", "--runtime", runtime, "true"]
    done = subprocess.run([*command, *words], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (125, b""), done
    assert done.stderr == (
        b"start.sh: /media/copy is on a file system that is mounted noexec, so that no program in it can run: move DIR"
        b" to another one, or mount -o remount,exec\n"
    )


def test_doctor_agrees_with_start_sh_about_proot(container: Container, place: Path) -> None:
    need("proot")
    path = path_with(place, "exit 1")
    environment = {**os.environ, "PATH": path}
    found = checks_of(doctor("--json", container.directory, env=environment))
    assert found["proot"]["state"] == "no"
    if os.geteuid() != 0:
        assert "user namespaces" in found["start.sh"]["detail"]
