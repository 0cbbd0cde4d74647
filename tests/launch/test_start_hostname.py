"""The hostname of a container, its files, limits and its process 1, as in docker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.rootfs.fixups import format_hostname
from tests.support.containers import SHELLS, Container, make_container, starter
from tests.support.tools import find_program, need, run

pytestmark = pytest.mark.slow

ASK = "busybox hostname; echo $HOSTNAME; cat /etc/hostname; busybox grep 127.0.1.1 /etc/hosts"


def generated(container: Container) -> Container:
    """The container with the files of /etc that start.sh generates, of another one."""
    folder = container.directory / ".provision/generated"
    folder.mkdir()
    for name in ("hosts", "hostname"):
        for directory in (folder, container.rootfs / "etc"):
            (directory / name).write_text("of yesterday\n")
            os.chown(directory / name, os.stat(container.rootfs).st_uid, -1)
    os.chown(folder, os.stat(container.rootfs).st_uid, -1)
    return container


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("name", "hostname"), [("ubuntu", "ubuntu"), ("My Box_2.0'", "my-box-2-0"), ("_", "container")]
)
def test_it_is_the_directory_s_name(place: Path, runtime: str, shell: str, name: str, hostname: str) -> None:
    need(SHELLS[shell][0])
    container = generated(make_container(place / name))
    machine = socket.gethostname()
    output = container.output(runtime, "sh", "-c", ASK, shell=SHELLS[shell]).decode()
    kernel = machine if runtime == "proot" else hostname
    assert output == f"{kernel}\n{hostname}\n{hostname}\n127.0.1.1 {hostname} {machine}\n"
    assert socket.gethostname() == machine


@pytest.mark.parametrize("way", ["link", "dot", "parent", "moved"])
def test_it_is_the_real_name_however_the_directory_is_reached(place: Path, runtime: str, way: str) -> None:
    make_container(place / "first")
    directory = (place / "first").rename(place / "second")
    (place / "link").symlink_to(directory)
    path = {"link": place / "link", "dot": f"{directory}/./", "parent": f"{directory}/rootfs/..", "moved": directory}
    done = subprocess.run(
        [f"{path[way]}/start.sh", "--runtime", runtime, "sh", "-c", "echo $HOSTNAME"],
        capture_output=True,
        check=False,
        **starter(runtime),
    )
    assert (done.stdout, done.stderr) == (b"second\n", b"")


def test_an_option_and_the_profile_overrule_it(container: Container, runtime: str) -> None:
    generated(container)
    assert b"\nweb.example\nweb.example\n" in container.output(runtime, "--hostname", "web.example", "sh", "-c", ASK)
    container.set(default_hostname="Box", image_env=("PATH=/bin",))
    assert b"\nBox\nBox\n" in container.output(runtime, "sh", "-c", ASK)
    container.set(default_hostname="Box", image_env=("PATH=/bin", "HOSTNAME=own"))
    assert container.output(runtime, "sh", "-c", "echo $HOSTNAME") == b"own\n"  # as docker does


@pytest.mark.parametrize("name", ["", "a b", "-x", "x-", ".x", "x/y", "x\n", "ä", "a" * 65])
def test_a_name_that_is_none_is_refused(container: Container, name: str) -> None:
    done = container.run("proot", "--hostname", name, "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"start.sh: --hostname ")


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60))
def test_start_sh_and_provision_make_the_same_name(name: str) -> None:
    if name in (".", ".."):
        return
    parts = Path(__file__).resolve().parents[2] / "scripts/start"
    sources = "".join(f". {parts}/{name}.sh; " for name in ("text", "options", "etc_files"))
    script = f'{sources} LC_ALL=C; make_label "$1"; printf %s "$label"'
    for shell in ("dash", "bash"):
        if find_program(shell):
            made = subprocess.run([shell, "-c", script, "sh", name], capture_output=True, check=True).stdout.decode()
            assert (made or "container") == format_hostname(Path("/x", name))


def test_files_are_created_as_in_docker_whatever_the_umask(container: Container, runtime: str) -> None:
    (container.rootfs / "tmp").chmod(0o777)
    for mask in ("077", "000"):
        made = "/tmp/file /tmp/folder"
        guest = f"umask; >/tmp/file; mkdir /tmp/folder; busybox stat -c %a {made}; busybox rm -r {made}"
        options = ["sh", "-c", f'umask {mask}; exec "$@"', "sh"]
        assert container.output(runtime, "sh", "-c", guest, shell=options) == b"0022\n644\n755\n"
    with container.running(runtime, "sh", "-c", "echo ready; sleep 60") as process:
        assert process.stdout
        process.stdout.readline()
        assert container.output("", "--exec", "sh", "-c", "umask", by=runtime, shell=options) == b"0022\n"
        process.terminate()
        process.wait(60)


def test_limits_pass_through(container: Container, runtime: str) -> None:
    guest = "ulimit -c; ulimit -H -c; ulimit -n; ulimit -H -n; ulimit -f"
    for limits in ("ulimit -c 0", "ulimit -c 7; ulimit -S -n 99; ulimit -f 12345", "ulimit -n 777"):
        words = ["sh", "-c", f'{limits}; exec "$@"', "sh"]
        expected = run(*words, find_program("busybox") or "", "sh", "-c", guest)
        assert container.output(runtime, "sh", "-c", guest, shell=words).decode() == expected


@pytest.mark.parametrize("path", ["/sbin/init", "/usr/lib/systemd/systemd", "init", "/lib/systemd/systemd"])
def test_systemd_is_refused_in_words(container: Container, runtime: str, path: str) -> None:
    systemd = container.rootfs / "usr/lib/systemd/systemd"
    systemd.parent.mkdir(parents=True)
    shutil.copy(find_program("busybox") or "", systemd)
    (container.rootfs / "lib").symlink_to("usr/lib")
    (container.rootfs / "sbin").mkdir()
    (container.rootfs / "sbin/init").symlink_to("../lib/systemd/systemd")
    container.set(image_command=(path,))
    for words in ([], [path, "--system"]):
        done = container.run(runtime, *words)
        assert (done.returncode, done.stdout) == (125, b"")
        assert done.stderr == (
            b"start.sh: systemd can't run in this container: start the program of a service instead, or use --shell\n"
        )
    assert container.run(runtime, "/usr/lib/systemd/systemd", "--version").returncode != 125


def test_another_init_is_none_of_systemd(container: Container, runtime: str) -> None:
    (container.rootfs / "sbin").mkdir()
    (container.rootfs / "sbin/init").write_text("#!/bin/sh\necho own init\n")
    (container.rootfs / "sbin/init").chmod(0o755)
    assert container.output(runtime, "/sbin/init") == b"own init\n"


@pytest.mark.parametrize("runtime", ["userns", "chroot"])
@pytest.mark.parametrize("name", ["init", "tini", "tini-static", "s6-svscan", "dumb-init", "runit-init", "my_init"])
def test_inits_are_process_1(container: Container, runtime: str, name: str) -> None:
    (container.rootfs / name).write_text("#!/bin/sh\necho $$\n")
    (container.rootfs / name).chmod(0o755)
    assert container.output(runtime, f"/{name}") == b"1\n"


@pytest.mark.parametrize("runtime", ["userns", "chroot"])
def test_tini_is_process_1_and_ends_by_signals(container: Container, runtime: str) -> None:
    need("tini-static")
    shutil.copy(find_program("tini-static") or "", container.rootfs / "tini")
    guest = "echo $PPID; trap 'exit 7' TERM; sleep 60 & wait"
    with container.running(runtime, "/tini", "--", "sh", "-c", guest) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        assert container.output("", "--exec", "cat", "/proc/1/comm", by=runtime) == b"tini\n"
        process.terminate()
        assert process.wait(60) == 7
