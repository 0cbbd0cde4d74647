"""`provision run`: a command in an image, with its exit status, and nothing left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.containers import starter, static_busybox
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, own, provision, provision_command

APPLETS = ("sh", "cat", "echo", "sleep")


@pytest.fixture
def image() -> Iterator[str]:
    """The reference of an image of busybox."""
    links = [(f"bin/{applet}", "busybox") for applet in APPLETS]
    data = builders.layer(("bin", None), ("bin/busybox", static_busybox().read_bytes(), 0o755), *links)
    with ScriptedRegistry() as registry:
        registry.push("tools", builders.image(data, run={"Cmd": ["echo", "hello"], "Env": ["PATH=/bin"]}))
        yield f"{registry.host}/tools"


@pytest.fixture
def home(place: Path) -> Path:
    home = place / "home"
    home.mkdir()
    return own(home)


def command(home: Path, *words: str) -> tuple[list[str], dict[str, Any]]:
    line, options = provision_command(*words, cache=home / "cache", **as_user())
    options["env"] |= {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    return line, {**options, "cwd": home}


def run(home: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    options = as_user(HOME=str(home), XDG_STATE_HOME=str(home / "state"))
    return provision(*words, cache=home / "cache", **{**options, "cwd": home, **more})


def left(home: Path) -> list[str]:
    """Return what is left of containers that were thrown away."""
    folder = home / "state/provision/run"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_command_runs_and_nothing_is_left(image: str, home: Path) -> None:
    done = run(home, "run", "-q", "--platform=amd64", image)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    done = run(home, "run", "-q", "--platform=amd64", image, "sh", "-c", "cat; exit 7", stdin=None, input="typed")
    assert (done.returncode, done.stdout) == (7, "typed")
    done = run(home, "run", "-q", "--platform=amd64", "--env", "A=1", image, "sh", "-c", "echo $A")
    assert done.stdout == "1\n"
    assert left(home) == []
    assert run(home, "list").stdout == ""
    assert sorted(os.listdir(home)) == ["cache", "state"]


def test_a_directory_of_the_user_is_left_alone(image: str, home: Path) -> None:
    """It may have binds, edited files and another version of the image."""
    assert run(home, image, "--platform=amd64", "--bind", f"{home}:/home").returncode == 0
    done = run(home, "run", "-q", "--platform=amd64", image, "sh", "-c", "echo new >/new; ls /home 2>&1; cat /new")
    assert done.stdout.endswith("new\n"), done.stderr
    assert "cache" not in done.stdout
    assert not (home / "tools/rootfs/new").exists()


def test_docker_s_options_precede_the_image(image: str, home: Path) -> None:
    """Those that change nothing here are accepted; behind the image all belongs to the command."""
    (home / "data").mkdir()
    (home / "data/file").write_text("bound\n")
    options = ["--rm", "-it", "--name", "x", "-e", "A=1", "-eB=2", "-v", "./data:/data", "-w", "/data", "-p", "80:80"]
    words = ["run", "-q", "--platform=amd64", *options, image, "sh", "-c", 'cat file; echo "$A$B$PWD$1"', "-e", "-it"]
    done = run(home, *words)
    assert (done.returncode, done.stdout) == (0, "bound\n12/data-it\n"), done.stderr
    done = run(home, "run", "-q", "--platform=amd64", "-itu", "7:8", "--entrypoint=sh", image, "-c", "echo $0", "-x")
    assert (done.returncode, done.stdout) == (0, "-x\n"), done.stderr


def test_an_option_behind_the_image_is_the_command_s(image: str, home: Path) -> None:
    """Without an entrypoint none can take it."""
    done = run(home, "run", "-q", "--platform=amd64", image, "-e", "A=1", "sh", "-c", "echo $A")
    line = f"provision run -e A=1 {image} sh -c 'echo $A'"
    says = f"provision: -e is no command; options of provision run come before the image\n  type {line}\n"
    assert (done.returncode, done.stderr) == (2, says)
    done = run(home, "run", "-q", "--platform=amd64", image, "-e", "A=1", "-td", "sh")
    assert (done.returncode, "-td would leave something running" in done.stderr) == (2, True), done.stderr
    done = run(home, "run", "-q", "--platform=amd64", "--entrypoint=echo", image, "-e", "A=1")
    assert (done.returncode, done.stdout) == (0, "A=1\n")
    assert left(home) == []


def test_the_directory_is_not_named(image: str, home: Path) -> None:
    """It is gone when the line could be typed."""
    done = run(home, "run", "--platform=amd64", image)
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "provision " in done.stderr, "what takes time is told"
    for word in ("is ready", "start.sh", "state/provision"):
        assert word not in done.stderr


@pytest.mark.parametrize("option", ["-d", "--detach", "-itd"])
def test_nothing_is_left_running(option: str, image: str, home: Path) -> None:
    done = run(home, "run", option, image, "sleep", "1000")
    assert done.returncode == 2
    assert "would leave something running" in done.stderr
    assert left(home) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_is_left(number: signal.Signals, image: str, home: Path) -> None:
    line, options = command(home, "run", "-q", "--platform=amd64", image, "sh", "-c", "echo ready; exec sleep 1000")
    with subprocess.Popen(line, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert left(home) == []


@pytest.mark.parametrize("runtime", ["proot", "userns"])
def test_a_kill_ends_what_runs(runtime: str, image: str, home: Path) -> None:
    """No signal is handed on then, and the guest listens to none."""
    starter(runtime)
    guest = "trap '' TERM HUP INT; echo ready; exec sleep 1000"
    line, options = command(home, "run", "-q", "--platform=amd64", "--runtime", runtime, image, "sh", "-c", guest)
    with subprocess.Popen(line, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert select.select([process.stdout], [], [], 60)[0], "the guest has its standard output open"
        assert process.stdout.read() == ""


def test_what_a_killed_run_has_left_is_removed_by_the_next(image: str, home: Path) -> None:
    line, options = command(home, "run", "-q", "--platform=amd64", image, "sh", "-c", "echo ready; exec sleep 1000")
    with subprocess.Popen(line, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert run(home, "run", "-q", "--platform=amd64", image).stdout == "hello\n"
        assert len(left(home)) == 1  # the other one goes on
        process.kill()
    deadline = time.monotonic() + 60
    while left(home) and time.monotonic() < deadline:
        assert run(home, "run", "-q", "--platform=amd64", image).stdout == "hello\n"
    assert left(home) == []


def test_an_image_that_is_not_there_leaves_nothing(image: str, home: Path) -> None:
    assert run(home, "run", image.replace("tools", "none")).returncode == 3
    assert left(home) == []
