"""What a guest of start.sh sees: its arguments, environment, user, working directory and devices."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.containers import (
    ENVIRONMENT,
    SAY,
    SHELLS,
    Container,
    hand_over,
    make_container,
    make_scratch,
    starter,
    static_busybox,
)
from tests.support.tools import need
from tests.support.waiting import wait_until


def test_arguments_keep_every_byte(container: Container, runtime: str) -> None:
    every = bytes(range(1, 256))
    words = [every, b"", b"-", b"--", b"a b", b"'", b"$(touch /tmp/canary)\n", b"\n\n"]
    assert container.words(runtime, "--", *SAY, *words) == words


def test_two_thousand_arguments(container: Container, runtime: str) -> None:
    words = [f"word {number}".encode() for number in range(2000)]
    assert container.words(runtime, *SAY, *words) == words


def test_environment_is_the_images_and_what_is_passed_on_purpose(container: Container, runtime: str) -> None:
    container.set(
        image_env=("PATH=/bin", "A=image", "B=image", "C=image", "LANG=image", "-odd.name=x", "LINES=a\nb\n", "LD_X=1"),
        default_env=("B=profile", "C=profile"),
    )
    env = {
        **starter(runtime)["env"],
        "TERM": "dumb",
        "COLORTERM": "truecolor",
        "LANG": "host",
        "SECRET": "x",
        "LC_ALL": "C",
    }
    found = container.words(runtime, "--env", "C=typed", "--env", "D= '\n", *ENVIRONMENT, env=env)
    image = [b"PATH=/bin", b"A=image", b"LANG=image", b"-odd.name=x", b"LINES=a\nb\n", b"LD_X=1"]
    passed = [b"B=profile", b"C=typed", b"D= '\n", b"TERM=dumb", b"COLORTERM=truecolor"]
    assert sorted(found) == sorted(
        [*image, *passed, b"HOME=/root", b"USER=root", b"SHELL=/bin/sh", b"HOSTNAME=container"]
    )


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_environment_keeps_every_byte(place: Path, runtime: str, kind: str) -> None:
    every = os.fsdecode(bytes(range(1, 256)) * 2)  # twice, since quotes are looked for one by one
    target = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    target.set(image_env=("PATH=/bin:/app", f"IMAGE={every}"), default_env=(f"DEFAULT={every}", "LINES=\n\n"))
    found = target.words(runtime, "--env", f"TYPED={every}", "--env", "END=a\n", *ENVIRONMENT)
    names = ("IMAGE", "DEFAULT", "TYPED")
    assert {*(os.fsencode(f"{name}={every}") for name in names), b"LINES=\n\n", b"END=a\n"} < set(found)


def test_what_the_starter_preloads_is_dropped(container: Container, runtime: str) -> None:
    env = {**starter(runtime)["env"], "LD_PRELOAD": "/no/such/library.so"}
    done = container.run(runtime, *ENVIRONMENT, env=env)
    assert b"LD_PRELOAD" not in done.stdout
    # The loader of the shell that runs the script complains; none of those that it starts does.
    assert done.stderr.count(b"LD_PRELOAD") == 1


def test_umask_is_the_usual_one(container: Container, runtime: str) -> None:
    assert container.output(runtime, "sh", "-c", "umask", umask=0o077) == b"0022\n"


def test_an_image_without_path_gets_the_usual_one(container: Container, runtime: str) -> None:
    container.set(image_env=())
    path = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert path in container.words(runtime, *ENVIRONMENT)


@pytest.mark.parametrize("link", ["/bin/busybox", "../../bin/busybox", "../../../../bin/busybox", "/etc/alias"])
def test_env_is_found_through_links(container: Container, link: str) -> None:
    (container.rootfs / "etc/alias").symlink_to("../bin/./busybox")
    (container.rootfs / "usr/bin/env").unlink()
    (container.rootfs / "usr/bin/env").symlink_to(link)
    shown = container.output("proot", "--print", "true").decode()
    assert "/usr/bin/env -i -- " in shown
    assert b"A=b" in container.words("proot", "--env", "A=b", *ENVIRONMENT)


def test_a_command_with_an_equals_sign_is_no_variable(container: Container, runtime: str) -> None:
    (container.rootfs / "bin/a=b").write_text("#!/bin/sh\necho ran")
    (container.rootfs / "bin/a=b").chmod(0o755)
    assert container.output(runtime, "a=b") == b"ran\n"


@pytest.mark.parametrize(
    ("user", "ids", "groups", "home"),
    [
        ("", "0:0", [4], "/root"),
        ("joe", "1000:1001", [29, 44], "/home/joe"),
        ("1000", "1000:1001", [29, 44], "/home/joe"),
        ("joe:audio", "1000:29", [], "/home/joe"),
        ("joe:7", "1000:7", [], "/home/joe"),
        ("1000:root", "1000:0", [], "/home/joe"),
        ("last", "77:78", [], "/home/last"),
        ("4321", "4321:0", [], "/"),
        ("4321:4322", "4321:4322", [], "/"),
    ],
)
@pytest.mark.parametrize("origin", ["image", "option"])
def test_user_is_found_in_the_rootfs(
    container: Container, runtime: str, user: str, ids: str, groups: list[int], home: str, origin: str
) -> None:
    options = ["--user", user] if origin == "option" else []
    container.set(image_user=user if origin == "image" else "33")
    found_home, uid, gid, *others = container.output(
        runtime, *options, "--", "sh", "-c", "echo $HOME; id -u; id -g; id -G"
    ).split()
    assert (found_home.decode(), f"{uid.decode()}:{gid.decode()}") == (home, ids)
    if runtime == "chroot":
        assert sorted({int(group) for group in others} - {int(gid)}) == groups


def test_root_option_passes_the_images_user(container: Container, runtime: str) -> None:
    container.set(image_user="joe")
    assert container.output(runtime, "--root", "sh", "-c", "id -u; echo $HOME") == b"0\n/root\n"


@pytest.mark.parametrize("directory", ["/home/joe", "/new/deep one", "/etc/link/x", "/up/../../.."])
@pytest.mark.parametrize("origin", ["image", "option"])
def test_working_directory_is_made_inside_the_rootfs(
    container: Container, place: Path, runtime: str, directory: str, origin: str
) -> None:
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (container.rootfs / "etc/link").symlink_to("../../../outside")  # seen from the guest, /outside
    (container.rootfs / "up").symlink_to("../../../../..")
    options = ["--workdir", directory] if origin == "option" else []
    container.set(image_workdir=directory if origin == "image" else "/tmp")
    real = {"/etc/link/x": "/outside/x", "/up/../../..": "/"}.get(directory, directory)
    assert container.output(runtime, *options, "pwd").decode() == f"{real}\n"
    assert list(outside.iterdir()) == []


def test_devices_and_kernel_file_systems_are_there(container: Container, runtime: str) -> None:
    guest = """
        for device in null zero full random urandom tty; do [ -c /dev/$device ] || echo no $device; done
        [ -e /dev/ptmx ] && [ -d /dev/pts ] && [ -d /sys/kernel ] && [ -e /dev/stdout ] && cat </dev/stdin >/dev/null
        echo y >/dev/shm/$$ && cat /dev/shm/$$ && busybox rm /dev/shm/$$ && head -c 3 /dev/zero | wc -c
        cat /proc/$$/comm
    """
    assert container.output(runtime, "sh", "-c", guest) == b"y\n3\nsh\n"


def test_shared_memory_is_the_container_s_own(container: Container, runtime: str) -> None:
    name = f"shared-{os.getpid()}"
    output = container.output(runtime, "sh", "-c", f"echo y >/dev/shm/{name}; cat /dev/shm/{name}")
    assert output == b"y\n"
    assert not Path("/dev/shm", name).exists()


# Standard streams of a user


@pytest.mark.parametrize("shell", SHELLS)
def test_a_user_can_open_the_pipes_that_standard_output_leads_to(container: Container, shell: str) -> None:
    """As in docker: nginx's logs are links to /dev/stdout."""
    need(*SHELLS[shell][:1])
    command = "echo out >/dev/stdout; echo error >/dev/stderr; cat /dev/stdin"
    done = container.run("chroot", "--user=joe", "sh", "-c", command, shell=SHELLS[shell], stdin=None, input=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nin\n", b"error\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_user_can_open_standard_output_where_it_is_a_file(container: Container, tmp_path: Path, shell: str) -> None:
    need(*SHELLS[shell][:1])
    out, error = tmp_path / "out", tmp_path / "error"
    command = "echo first; echo second >/dev/stdout; echo error >/dev/stderr; exit 7"
    out.write_bytes(b"before\n")
    with out.open("ab") as first, error.open("wb") as second:
        done = container.run(
            "chroot", "--user=joe", "sh", "-c", command, shell=SHELLS[shell], stdout=first, stderr=second
        )
    assert done.returncode == 7
    assert (out.read_bytes(), error.read_bytes()) == (b"before\nfirst\nsecond\n", b"error\n")
    assert {path.stat().st_uid for path in (out, error)} == {os.geteuid()}


def test_one_file_for_both_has_all_in_order(container: Container, tmp_path: Path) -> None:
    command = "for n in 1 2 3 4 5 6 7 8 9; do echo out >/dev/stdout; echo error >/dev/stderr; done"
    with (tmp_path / "log").open("wb") as log:
        done = container.run("chroot", "--user=joe", "sh", "-c", command, stdout=log, stderr=log)
    assert done.returncode == 0
    assert (tmp_path / "log").read_bytes() == b"out\nerror\n" * 9


def test_all_is_in_the_file_when_it_ends(container: Container, tmp_path: Path) -> None:
    """Also what a job in the background has written, which ends with the container."""
    command = "head -c 3000000 /dev/zero >/dev/stdout; sleep 1000 & exit 3"
    with (tmp_path / "log").open("wb") as log:
        done = container.run("chroot", "--user=joe", "sh", "-c", command, stdout=log)
    assert (done.returncode, (tmp_path / "log").stat().st_size) == (3, 3_000_000)


def test_a_killed_container_with_a_relay_leaves_nothing(container: Container, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**starter("chroot")["env"], "TMPDIR": str(temporary)}
    with (
        (tmp_path / "log").open("wb") as log,
        container.running("chroot", "--user=joe", "sh", "-c", "echo x; sleep 1000", stdout=log, env=env) as process,
    ):
        wait_until(lambda: (tmp_path / "log").read_bytes() == b"x\n")
        process.kill()
    assert list(temporary.iterdir()) == []


def test_the_callers_files_and_named_pipes_keep_their_owner(container: Container, tmp_path: Path) -> None:
    place = tmp_path / "1 2"
    place.mkdir()
    files = [place / "out", place / "fifo"]
    os.mkfifo(files[1])
    reader = os.open(files[1], os.O_RDONLY | os.O_NONBLOCK)
    with files[0].open("wb") as out, files[1].open("wb") as fifo:
        done = container.run("chroot", "--user=joe", "sh", "-c", "echo out; echo error >&2", stdout=out, stderr=fifo)
    assert done.returncode == 0
    assert files[0].read_bytes() == b"out\n"
    assert os.read(reader, 100) == b"error\n"
    os.close(reader)
    assert {path.stat().st_uid for path in files} == {os.geteuid()}


# Relative programs, and words of PATH


def with_programs(target: Container, directory: str) -> Container:
    """The container with programs below a directory that print where they are, by their name."""
    for name in ("", "sub", "rel"):
        path = target.rootfs / directory / name
        path.mkdir(parents=True, exist_ok=True)
        busybox = path / "pwd"
        busybox.unlink(missing_ok=True)
        shutil.copy(static_busybox(), busybox)
    return hand_over(target)


@pytest.mark.parametrize("kind", ["env", "shell", "scratch"])
@pytest.mark.parametrize("user", ["", "77:78"])
@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("./pwd", "/bin"),
        ("sub/pwd", "/bin"),
        ("../srv/pwd", "/bin"),
        ("pwd", "."),
        ("pwd", "rel"),
        ("pwd", "/nowhere:./sub"),
        ("pwd", ":/nowhere"),
        ("pwd", "/nowhere:"),
    ],
)
def test_relative_programs_are_found_in_the_working_directory(
    place: Path, runtime: str, kind: str, user: str, command: str, path: str
) -> None:
    target = (make_scratch if kind == "scratch" else make_container)(place / kind)
    if kind == "shell":
        (target.rootfs / "usr/bin/env").unlink()
    with_programs(target, "srv")
    target.set(image_env=(f"PATH={path}",), image_entrypoint=(command,), image_workdir="/srv", image_user=user)
    assert target.output(runtime) == b"/srv\n"


@pytest.mark.parametrize("kind", ["env", "shell", "scratch"])
@pytest.mark.parametrize(("command", "path"), [("./pwd", "/bin"), ("pwd", "."), ("top/pwd", "/bin")])
def test_they_are_found_in_the_root_too(place: Path, runtime: str, kind: str, command: str, path: str) -> None:
    target = (make_scratch if kind == "scratch" else make_container)(place / kind)
    if kind == "shell":
        (target.rootfs / "usr/bin/env").unlink()
    with_programs(with_programs(target, ""), "top")
    target.set(image_env=(f"PATH={path}",), image_entrypoint=(command,))
    assert target.output(runtime) == b"/\n"


@pytest.mark.parametrize("kind", ["env", "scratch"])
def test_a_relative_program_that_is_missing_is_127(place: Path, runtime: str, kind: str) -> None:
    target = (make_scratch if kind == "scratch" else make_container)(place / kind)
    with_programs(target, "srv")
    (target.rootfs / "srv/text").write_text("no program")
    hand_over(target.set(image_env=("PATH=.",), image_workdir="/srv"))
    assert [target.run(runtime, word).returncode for word in ("./nonesuch", "nonesuch", "./text")] == [127, 127, 126]
