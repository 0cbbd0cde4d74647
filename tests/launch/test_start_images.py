"""Images that start.sh has to start: without tools, real ones, and whatever an image may say of its command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support import realimages
from tests.support.containers import (
    ENVIRONMENT,
    PASSWD,
    RUNTIMES,
    SAY,
    SHELLS,
    Container,
    hand_over,
    make_container,
    starter,
)
from tests.support.shell_texts import NAMES, TEXT
from tests.support.tools import as_user, find_program, need, provision

pytestmark = pytest.mark.slow


def test_scratch_images_start(scratch: Container, runtime: str) -> None:
    scratch.set(image_env=("PATH=/sbin:/app", "A=b\nc"), image_workdir="/made/here", image_user="65532:65533")
    assert scratch.output(runtime, "pwd") == b"/made/here\n"
    output = scratch.output(runtime, "id").split()
    assert output[:2] == [b"uid=65532", b"gid=65533"]
    assert len(output) == 2 or os.geteuid()  # other groups are those of whoever runs the tests
    found = scratch.words(runtime, *ENVIRONMENT, env={**starter(runtime)["env"], "SECRET": "x", "TERM": "dumb"})
    assert {b"A=b\nc", b"TERM=dumb"} < set(found)
    assert b"SECRET=x" not in found


def test_an_image_with_a_shell_but_no_env_starts(container: Container, runtime: str) -> None:
    (container.rootfs / "usr/bin/env").unlink()
    (container.rootfs / "app").mkdir()
    (container.rootfs / "app/output").write_text('#!/bin/sh\necho "$A $(pwd)"')
    (container.rootfs / "app/output").chmod(0o755)
    hand_over(container.set(image_env=("PATH=/app:/bin", "A=b"), image_workdir="/made/here"))
    assert container.output(runtime, "output") == b"b /made/here\n"


# Real images: what small ones are asked elsewhere, once for each runtime


@pytest.fixture(scope="module")
def real(debian: str, application: str, lasting_place: Path) -> Callable[[str, str], Container]:
    """Gives a container of one of them, which whoever starts that runtime has provisioned."""
    references = {"debian": debian, "application": application}

    def container(name: str, runtime: str) -> Container:
        starter(runtime)
        maker = {} if runtime == "chroot" else as_user()
        directory = lasting_place / f"{name}-{'user' if maker else 'root'}"
        if not directory.exists():
            provision(references[name], directory, **maker, status=0)
        return Container(directory)

    return container


def test_a_debian_is_the_same_in_every_runtime(
    real: Callable[[str, str], Container], place: Path, runtime: str
) -> None:
    target = real("debian", runtime)
    words = [bytes(range(1, 256)), b"", b"--", b"\n\n", *(f"word {number}".encode() for number in range(2000))]
    assert target.words(runtime, *SAY, *words) == words
    assert {b"A=", b"LINES=a\n\nb\n"} < set(
        target.words(runtime, "--env", "A=", "--env", "LINES=a\n\nb\n", *ENVIRONMENT)
    )
    for name in ("two words", "co:lon"):
        (place / name).write_text(name)
    options = ["--bind", f"{place}/two words:/mnt/a b", "--bind", f"{place}/co:lon:/mnt/c:d", "--workdir", "/made/here"]
    guest = "pwd; id -u; id -un; cat '/mnt/a b' /mnt/c:d; exit 7"
    done = target.run(runtime, *options, "--user", "games", "bash", "-c", guest)
    assert (done.returncode, done.stdout) == (7, b"/made/here\n5\ngames\ntwo wordsco:lon"), done
    for status in (0, 125, 255):
        assert target.run(runtime, "sh", "-c", f"exit {status}").returncode == status
    assert [target.run(runtime, command).returncode for command in ("nonesuch", "/etc/passwd")] == [127, 126]
    for name, number in (("TERM", signal.SIGTERM), ("HUP", signal.SIGHUP)):
        guest = f"trap 'exit 41' {name}; echo ready; while :; do sleep 0.02; done"
        with target.running(runtime, "sh", "-c", guest) as process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(60) == 41


def test_an_application_is_the_same_in_every_runtime(real: Callable[[str, str], Container], runtime: str) -> None:
    target = real("application", runtime)
    output = [word.decode() for word in target.words(runtime)]
    arguments = [word.removeprefix("argument:") for word in output if word.startswith("argument:")]
    assert arguments == [*realimages.ENTRYPOINT[1:], *realimages.COMMAND]
    assert {f"env:{name}={value}" for name, value in realimages.ENVIRONMENT.items()} < set(output)
    (ids,) = re.findall("^app:x:(\\d+:\\d+)", (target.rootfs / "etc/passwd").read_text(), re.MULTILINE)
    assert {f"user:{ids}", "workdir:/srv/app", "env:HOME=/home/app", "env:USER=app"} < set(output)


# Anything an image may say


# A program that the host has on PATH beside the shell, and that tells when it was run.
CANARY = '#!/bin/sh\necho ran >>"${0%/*}/ran"\n'

# What would run it, where some text of an image were taken for a shell's.
SPOKEN = st.sampled_from(["$(canary)", "`canary`", "';canary;'", '";canary;"', "\ncanary\n", ";canary #", "|canary&"])
HOSTILE = st.one_of(TEXT, st.lists(st.one_of(TEXT, SPOKEN), max_size=3).map("".join))
COMPONENT = HOSTILE.filter(
    lambda text: 0 < len(os.fsencode(text)) < 200 and "/" not in text and text not in (".", "..")
)
IDS = st.integers(0, 2**31 - 2)


@pytest.fixture(scope="module")
def shared(lasting_place: Path) -> Container:
    return make_container(lasting_place / "shared")


def host_with_canary(place: Path, shell: str) -> Path:
    """A directory for PATH: the shell as `sh`, which is process 1 of a namespace, and the canary."""
    need(SHELLS[shell][0])
    host = place / shell
    if not host.exists():
        host.mkdir()
        host.chmod(0o777)
        (host / "sh").symlink_to(find_program(SHELLS[shell][0]) or "")
        (host / "canary").write_text(CANARY)
        (host / "canary").chmod(0o755)
    return host


def start_beside_canary(
    container: Container, runtime: str, shell: str, host: Path
) -> tuple[subprocess.CompletedProcess[bytes], dict[str, str]]:
    """Start the container; what came of it, and the environment it was started with."""
    env = dict(starter(runtime)["env"])
    env["PATH"] = f"{host}:{env['PATH']}"
    done = container.run(runtime, shell=SHELLS[shell], env=env, cwd=host)
    assert sorted(os.listdir(host)) == ["canary", "sh"], done
    return done, env


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("runtime", RUNTIMES)
@hypothesis_settings(max_examples=25, deadline=None)
@given(
    words=st.lists(HOSTILE, max_size=4),
    cut=st.integers(0, 4),
    variables=st.dictionaries(NAMES.filter(lambda name: name != "PATH"), HOSTILE, max_size=3),
    directory=COMPONENT,
    name=HOSTILE.filter(lambda text: not {":", "\n"} & set(text)),
    ids=st.tuples(IDS, IDS),
)
def test_the_guest_sees_exactly_what_the_image_says(
    shared: Container,
    lasting_place: Path,
    runtime: str,
    shell: str,
    words: list[str],
    cut: int,
    variables: dict[str, str],
    directory: str,
    name: str,
    ids: tuple[int, int],
) -> None:
    user = f"{ids[0]}:{ids[1]}"
    (shared.rootfs / "etc/passwd").write_bytes(os.fsencode(f"{name}:x:{user}::/home:/bin/sh\n") if name else b"")
    guest = ("/bin/sh", "-c", 'cat /proc/$$/environ; printf "%s\\0" "$(id -u):$(id -g)" "$PWD" "$@"', "say")
    shared.set(
        image_entrypoint=guest + tuple(words[:cut]),
        image_command=tuple(words[cut:]),
        image_env=("PATH=/bin", *("=".join(variable) for variable in variables.items())),
        image_workdir=f"/tmp/{directory}",
        image_user=name or user,
    )
    done, env = start_beside_canary(shared, runtime, shell, host_with_canary(lasting_place, shell))
    assert (done.returncode, done.stderr) == (0, b"")
    output = done.stdout.split(b"\0")[:-1]
    assert output[-len(words) - 2 :] == [os.fsencode(word) for word in (user, f"/tmp/{directory}", *words)]
    expected = {"HOME": "/home" if name else "/", "SHELL": "/bin/sh", **({"USER": name} if name else {})}
    expected |= {name: env[name] for name in ("TERM", "COLORTERM") if name in env}
    expected |= {"PATH": "/bin", "HOSTNAME": shared.directory.name, **variables}
    assert sorted(output[: -len(words) - 2]) == sorted(os.fsencode(f"{name}={expected[name]}") for name in expected)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("runtime", RUNTIMES)
@hypothesis_settings(max_examples=8, deadline=None)
@given(user=HOSTILE, entrypoint=st.lists(HOSTILE, max_size=2), directory=HOSTILE)
def test_what_an_image_says_wrong_runs_nothing_on_the_host(
    shared: Container, lasting_place: Path, runtime: str, shell: str, user: str, entrypoint: list[str], directory: str
) -> None:
    (shared.rootfs / "etc/passwd").write_text(PASSWD)
    shared.set(image_user=user, image_entrypoint=tuple(entrypoint), image_command=("true",), image_workdir=directory)
    done, _ = start_beside_canary(shared, runtime, shell, host_with_canary(lasting_place, shell))
    assert done.returncode in range(128)
