"""Options of `docker run`: understood, or answered with what to do here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import SAY, SHELLS, Container, starter
from tests.support.tools import need

LINES = [
    line.split()
    for line in (
        "--env A=1 --env=B=2 --workdir=/tmp --user joe --init --tty --interactive --rm=true",
        "--name x --name=x -l a=b --label=a -eA=1 -eB=2 -tw /tmp -tiu joe --pull=always",
        "-p 80:80 -p 8080 -P --network host --net=host --publish=127.0.0.1:80:80/tcp -eA=1 -eB=2 -w/tmp -ujoe",
    )
]
GUEST = ("sh", "-c", 'echo "$A|$B|$(pwd)|$(id -u)"; printf "%s " "$@"', "sh")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "options",
    [
        ["-e", "A=1", "-e", "B=2", "-w", "/tmp", "-u", "joe"],
        ["-eA=1", "-e=B=2", "-w/tmp", "-ujoe"],
        ["-it", "-ieA=1", "-itqeB=2", "--rm", "-w", "/tmp", "-u=joe"],
        *LINES,
    ],
)
def test_usual_options_are_understood(container: Container, shell: str, options: list[str]) -> None:
    need(SHELLS[shell][0])
    output = container.output("proot", *options, *GUEST, "-it", "-x", "--rm", shell=SHELLS[shell])
    assert output == b"1|2|/tmp|1000\n-it -x --rm "


@pytest.mark.parametrize("runtime", ["userns", "chroot"])
def test_they_are_understood_where_the_script_runs_twice(container: Container, runtime: str) -> None:
    options = ["-it", "--rm", "-eA=a b'", "-p80:80", "-w", "/tmp", "-u", "0", "-e", "B"]
    env = {**starter(runtime)["env"], "B": "caller's"}
    assert container.output(runtime, *options, *GUEST, "--", "-e", env=env) == b"a b'|caller's|/tmp|0\n-- -e "


def test_no_word_of_the_command_is_taken_for_an_option(container: Container) -> None:
    assert container.words("proot", "-it", *SAY, "-it", "-e", "x") == [b"-it", b"-e", b"x"]
    container.set(image_entrypoint=SAY)
    assert container.words("proot", "-it", "--", "-it", "-e") == [b"-it", b"-e"]
    assert container.words("proot", "--", "-p", "1:2") == [b"-p", b"1:2"]


@pytest.mark.parametrize(
    "options",
    [
        ["-v", "{0}:/data"],
        ["-v{0}:/data:rw"],
        ["--volume={0}:/data:z"],
        ["--volume", "{0}:/data:rw,Z"],
        ["--mount", "type=bind,source={0},target=/data"],
        ["--mount=type=bind,src={0},dst=/data"],
        ["-v", "./data:/data"],
    ],
)
def test_volumes_are_binds(container: Container, place: Path, runtime: str, options: list[str]) -> None:
    (place / "data").mkdir()
    (place / "data/file").write_text("content")
    words = [word.format(f"{place}/data") for word in options]
    assert container.output(runtime, *words, "cat", "/data/file", cwd=place) == b"content"


def test_a_colon_in_the_name_of_a_volume_is_kept(container: Container, place: Path) -> None:
    (place / "a:b").mkdir()
    (place / "a:b/file").write_text("content")
    assert container.output("proot", "-v", f"{place}/a:b:/data:rw", "cat", "/data/file") == b"content"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["-p", "8080:80"],
            "-p 8080:80: ports can't be mapped, 80 is the same port outside: leave -p out, or let the program",
        ),
        (
            ["--publish=127.0.0.1:8080:80/tcp"],
            "-p 127.0.0.1:8080:80/tcp: ports can't be mapped, 80 is the same port outside",
        ),
        (["--network", "none"], "docker's --network is not supported: the network is always this machine's"),
        (["--net=bridge"], "docker's --net is not supported: the network is always this machine's"),
        (["-m", "1g"], "docker's --memory is not supported: set limits outside"),
        (["--cpus=2"], "docker's --cpus is not supported: set limits outside"),
        (["-v", "data:/data"], "there is no directory data, and volumes are directories here: mkdir data"),
        (["-v", "/data"], "-v needs SRC:DST; /data needs no volume"),
        (["-v", "/etc:/data:shared"], "-v has no option shared here"),
        (["--mount", "type=tmpfs,target=/x"], "docker's --mount is not supported: bind a directory"),
        (["--mount", "type=bind,target=/x"], "--mount needs source=SRC and target=DST"),
        (["--platform", "linux/arm64"], "docker's --platform is not supported: choose it when DIR is made"),
        (["--restart=always"], "docker's --restart is not supported: let a service manager"),
        (["--cap-drop", "ALL"], "docker's --cap-drop is not supported: root has few capabilities"),
        (["--security-opt", "seccomp=unconfined"], "docker's --security-opt is not supported: the seccomp filter"),
        (["--tmpfs", "/x"], "docker's --tmpfs is not supported"),
        (["--pid=host"], "docker's --pid is not supported: leave it out"),
        (["--add-host=a:1.2.3.4"], "docker's --add-host is not supported: edit /etc/hosts"),
        (["-ix"], "unknown option -x"),
        (["-e"], "-e needs a value"),
        (["-it", "-w"], "-w needs a value"),
        (["--volume"], "--volume needs a value"),
        (["--nonsense=1"], "unknown option --nonsense"),
        (["-v", "/etc:/data:a\x1b[31m"], "-v has no option a?[31m here"),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_what_cannot_be_had_is_answered(container: Container, shell: str, options: list[str], complaint: str) -> None:
    done = container.run("proot", *options, shell=SHELLS[shell])
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode().startswith(f"start.sh: {complaint}")
    assert done.stderr.count(b"\n") == 1


def test_no_new_privileges_is_the_option_of_that_name(container: Container) -> None:
    for option in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
        shown = container.output("chroot", "--security-opt", option, "--print", "true")
        assert b"--no-new-privs" in shown


def test_the_letter_for_help_is_that_of_a_name_if_one_follows(container: Container) -> None:
    assert container.output("", "-h").startswith(b"Usage: start.sh")
    assert container.run("", "-h", "box", "true").returncode in (0, 125)
