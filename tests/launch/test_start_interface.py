"""start.sh's command line: help, options, mistakes, and the words that become the guest's command."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.containers import RUNTIMES, SAY, SHELLS, Container, starter
from tests.support.terminal import read_terminal
from tests.support.tools import need, open_terminal


@pytest.mark.parametrize("shell", SHELLS)
def test_help_fits_a_phone(container: Container, shell: str) -> None:
    need(SHELLS[shell][0])
    lines = container.output("", "--help", shell=SHELLS[shell]).decode().splitlines()
    assert max(map(len, lines)) <= 40
    text = "\n".join(lines)
    for option in (
        "shell",
        "entrypoint",
        "user",
        "workdir",
        "env",
        "bind",
        "dns",
        "root",
        "runtime",
        "print",
        "dev",
        "privileged",
        "no-namespace",
        "termux",
        "help",
    ):
        assert f"--{option}" in text


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--nonsense"], "unknown option --nonsense"),
        (["-x"], "unknown option -x"),
        (["--shell=yes"], "--shell takes no value"),
        (["--print", "--user"], "--user needs a value"),
        (["--env", ""], "--env needs NAME=VALUE"),
        (["--env", "=x"], "--env needs NAME=VALUE"),
        (["--dns", "1.1.1.1; rm"], "--dns needs an IP address"),
        (["--bind", "/no/such:/x"], "--bind: there is no /no/such: mkdir -p /no/such"),
        (["--bind", "/no such:/x"], "--bind: there is no /no such: mkdir -p '/no such'"),
        (["--workdir", "here"], "--workdir needs an absolute path, not here"),
        (["--workdir", ""], "--workdir needs an absolute path, not an empty word"),
        (["--hostname", ""], "--hostname needs letters, digits, dots and hyphens, not an empty word"),
        (["--umask", ""], "--umask needs up to four digits from 0 to 7, not an empty word"),
        (["--dev=all"], "--dev can only be host"),
        (["--runtime", "docker"], "unknown runtime docker"),
        (["--user", "nobody"], "no user nobody in the image"),
        (["--user", "joe:staff"], "no group staff in the image"),
        (["--user", "4294967296"], "no user 4294967296 in the image"),  # 0 to programs that count in 32 bits
        (["--inside", "chroot"], "--inside is for start.sh itself"),
        (["--user", "a\x1b[31mb\nc"], "no user a?[31mb?c in the image"),
    ],
)
def test_an_error_is_one_line(container: Container, args: list[str], complaint: str) -> None:
    done = container.run("", *args)
    assert done.returncode == 125
    assert done.stdout == b""
    assert done.stderr.decode().startswith(f"start.sh: {complaint}")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("entrypoint", "command", "args", "expected"),
    [
        ((), (*SAY, "cmd"), [], [b"cmd"]),
        ((), ("false",), [*SAY, "typed"], [b"typed"]),
        (SAY, ("cmd 1", ""), [], [b"cmd 1", b""]),
        (SAY, ("cmd",), ["typed", "--user", "x"], [b"typed", b"--user", b"x"]),
        (SAY, ("cmd",), ["--", "--typed"], [b"--typed"]),
        (SAY, (), [], []),
        (("false",), ("false",), ["--entrypoint", "sh", "--", *SAY[1:], "typed"], [b"typed"]),
        (("false",), ("false",), ["--entrypoint=", *SAY, "typed"], [b"typed"]),
        (("false",), ("-c", "false"), ["--entrypoint", "true"], []),  # the image's command belongs to its entrypoint
        (("false",), ("false",), ["--entrypoint", ""], []),
        ((), (), [], []),  # /bin/sh
    ],
)
def test_words_are_joined_as_docker_run_does(
    container: Container, entrypoint: tuple[str, ...], command: tuple[str, ...], args: list[str], expected: list[bytes]
) -> None:
    container.set(image_entrypoint=entrypoint, image_command=command)
    assert container.words("proot", *args) == expected


@pytest.mark.parametrize(
    ("user", "shell"),
    [("root", "/bin/sh"), ("joe", "/bin/ash"), ("web", "/bin/sh"), ("last", "/bin/sh"), ("5", "/bin/sh")],
)
def test_login_shell_passes_the_entrypoint(container: Container, user: str, shell: str) -> None:
    container.set(image_entrypoint=("false",))
    (container.rootfs / "etc/profile").write_text("PROFILE=read")
    output = container.words("proot", "--user", user, "--shell", "--", "-c", 'printf "%s\\0" $PROFILE $SHELL')
    assert output == [b"read", shell.encode()]


def test_options_are_taken_with_an_equals_sign_too(container: Container) -> None:
    assert container.output(
        "proot", "--user=joe", "--workdir=/home/joe", "--env=A=b=c", "sh", "-c", "pwd; echo $A"
    ) == (b"/home/joe\nb=c\n")


def test_what_is_printed_can_be_pasted(container: Container, runtime: str) -> None:
    container.set(image_env=("PATH=/bin", "A=it's\n$HOME"))
    args = ["--user", "1000", "--workdir", "/tmp", *SAY, "a b", "'", "", "$(touch canary)\n"]
    shown = container.output(runtime, "--print", *args)
    env = {**starter(runtime)["env"], "LD_PRELOAD": "/no/such/library.so"}
    assert container.run(runtime, "--print", "true", env=env).stdout.startswith(b"(unset LD_PRELOAD; ")
    done = subprocess.run([b"sh", b"-c", shown], capture_output=True, check=True, **starter(runtime))
    assert done.stdout.split(b"\0")[:-1] == [b"a b", b"'", b"", b"$(touch canary)\n"]


def test_ports_of_the_image_are_told_at_a_terminal(container: Container) -> None:
    container.set(image_ports=("80/tcp", "53/udp", "8000-8010/tcp"), image_entrypoint=("true",))
    told = "start.sh: ports of the image, on this machine's network: 80/tcp, 53/udp, 8000-8010/tcp"
    for runtime in RUNTIMES:
        starter(runtime)
        assert told in at_terminal(container, runtime)
        assert container.output(runtime) == b"", "not in a pipe"
    assert "ports" not in at_terminal(container, "proot", "--shell", "--", "-c", "true")
    container.set(image_ports=("80/tcp",), image_command=("true",))
    assert "80/tcp" in at_terminal(container, "proot")
    assert "80/tcp" not in at_terminal(container, "proot", "true"), "another command has other ports"
    container.set(image_ports=("80/tcp\x1b[31m",), image_command=("true",))
    assert "\x1b[31m" not in at_terminal(container, "proot")


def at_terminal(container: Container, runtime: str, *args: str) -> str:
    """What a start writes to a terminal."""
    leader, follower = open_terminal()
    try:
        done = container.run(runtime, *args, stderr=follower)
        os.close(follower)
        assert done.returncode == 0, done
        return read_terminal(leader).decode()
    finally:
        os.close(leader)
