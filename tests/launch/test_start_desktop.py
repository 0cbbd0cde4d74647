"""start.sh --x11, --sound and --gpu: sockets of programs of this machine, by one table."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provisioner.resources import read_resource
from tests.support.containers import ENVIRONMENT, SHELLS, Container, starter
from tests.support.tools import CHECKOUT, as_user, need, own, provision

NAMES = ("DISPLAY", "XAUTHORITY", "PULSE_SERVER", "PULSE_COOKIE", "GALLIUM_DRIVER", "MESA_GL_VERSION_OVERRIDE")


def desktop(container: Container, runtime: str, *options: str, **caller: str) -> dict[str, str]:
    """The variables of the table that the guest has."""
    env = {**starter(runtime)["env"], **caller}
    words = container.words(runtime, *options, *ENVIRONMENT, env=env)
    pairs = (word.decode().split("=", 1) for word in words)
    return {name: value for name, value in pairs if name in NAMES}


@pytest.fixture
def home(place: Path) -> Path:
    """A home of the caller, and its TMPDIR below."""
    for name in ("home", "home/tmp", "home/run"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    own(place / "home")
    return place / "home"


def caller_of(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "TMPDIR": f"{home}/tmp", "XDG_RUNTIME_DIR": f"{home}/run", **more}


def has_socket(container: Container, runtime: str, path: str, *options: str, **caller: str) -> bool:
    env = {**starter(runtime)["env"], **caller}
    return container.run(runtime, *options, "sh", "-c", f"[ -S {path} ]", env=env).returncode == 0


def test_x11_shows_the_server_s_socket(container: Container, home: Path, runtime: str) -> None:
    (home / ".Xauthority").write_text("cookie")
    (home / ".Xauthority").chmod(0o644)
    caller = caller_of(home)
    with _bound(home / "tmp/.X11-unix/X7"):
        assert desktop(container, runtime, "--x11", **caller) == {
            "DISPLAY": ":7",
            "XAUTHORITY": "/tmp/.Xauthority.host",
        }
        assert has_socket(container, runtime, "/tmp/.X11-unix/X7", "--x11", **caller)
        env = {**starter(runtime)["env"], **caller}
        assert container.output(runtime, "--x11", "cat", "/tmp/.Xauthority.host", env=env) == b"cookie"
        assert desktop(container, runtime, **caller) == {}, "off without being asked"
        assert not has_socket(container, runtime, "/tmp/.X11-unix/X7", **caller)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_display_of_the_caller_counts(container: Container, home: Path, shell: str) -> None:
    need(SHELLS[shell][0])
    with _bound(home / "tmp/.X11-unix/X1"), _bound(home / "tmp/.X11-unix/X12"):
        env = {**starter("proot")["env"], **caller_of(home, DISPLAY=":12.0")}
        found = container.words("proot", "--x11", *ENVIRONMENT, env=env, shell=SHELLS[shell])
        assert b"DISPLAY=:12" in found
        # A display by TCP, as ssh -X makes it, needs no socket.
        env["DISPLAY"] = "localhost:10.0"
        found = container.words("proot", "--x11", *ENVIRONMENT, env=env, shell=SHELLS[shell])
        assert b"DISPLAY=localhost:10.0" in found
        assert b"DISPLAY=typed" in container.words("proot", "--x11", "--env=DISPLAY=typed", *ENVIRONMENT, env=env)


@pytest.mark.parametrize("place_of_socket", ["run/pulse/native", "tmp/pulse-abc/native", "elsewhere/mine"])
def test_sound(container: Container, home: Path, runtime: str, place_of_socket: str) -> None:
    caller = caller_of(home)
    if place_of_socket.startswith("elsewhere"):
        caller["PULSE_SERVER"] = f"unix:{home}/{place_of_socket}"
    with _bound(home / place_of_socket):
        name = Path(place_of_socket).name
        expected = {"PULSE_SERVER": f"unix:/tmp/.pulse.host/{name}"}
        assert desktop(container, runtime, "--sound", **caller) == expected
        assert has_socket(container, runtime, f"/tmp/.pulse.host/{name}", "--sound", **caller)


def test_sound_by_tcp_needs_no_socket(container: Container, home: Path) -> None:
    caller = caller_of(home, PULSE_SERVER="tcp:127.0.0.1:4713")
    assert desktop(container, "proot", "--sound", **caller) == {"PULSE_SERVER": "tcp:127.0.0.1:4713"}


def test_virgl(container: Container, home: Path, runtime: str) -> None:
    caller = caller_of(home)
    with _bound(home / "tmp/.virgl_test"):
        assert desktop(container, runtime, "--gpu", "virgl", **caller) == {
            "GALLIUM_DRIVER": "virpipe",
            "MESA_GL_VERSION_OVERRIDE": "4.0",
        }
        assert has_socket(container, runtime, "/tmp/.virgl_test", "--gpu=virgl", **caller)


def test_they_work_together(container: Container, home: Path) -> None:
    caller = caller_of(home)
    with (
        _bound(home / "tmp/.X11-unix/X0"),
        _bound(home / "run/pulse/native"),
        _bound(home / "tmp/.virgl_test"),
    ):
        found = desktop(container, "proot", "--x11", "--sound", "--gpu", "virgl", **caller)
        assert set(found) == {"DISPLAY", "PULSE_SERVER", "GALLIUM_DRIVER", "MESA_GL_VERSION_OVERRIDE"}


@pytest.mark.parametrize(
    ("options", "termux", "program"),
    [
        (["--x11"], False, "Xvfb"),
        (["--x11"], True, "termux-x11"),
        (["--sound"], False, "pulseaudio --start"),
        (["--gpu", "virgl"], False, "virgl_test_server --use-egl-surfaceless"),
        (["--gpu", "virgl"], True, "virgl_test_server_android"),
    ],
)
def test_without_a_socket_it_says_what_to_run(
    container: Container, home: Path, runtime: str, options: list[str], termux: bool, program: str
) -> None:
    caller = caller_of(home, DISPLAY=":4711", PULSE_SERVER=f"unix:{home}/missing")
    if termux:
        caller["PREFIX"] = f"{home}/files/usr"
    done = container.run(runtime, *options, "true", env={**starter(runtime)["env"], **caller})
    assert done.returncode == 125
    assert f"{options[0]}: no socket of its server was found on this machine" in done.stderr.decode()
    assert f"Run: {program}" in done.stderr.decode()


def test_a_guest_talks_to_the_server(debian: str, place: Path, home: Path) -> None:
    """A real connection, by a program of a real image."""
    provision(debian, place / "debian", **as_user(), status=0)
    guest = "IO::Socket::UNIX->new(Peer => '/tmp/.virgl_test')->print('hello')"
    for runtime in ("proot", "userns"):
        with _bound(home / "tmp/.virgl_test") as server:
            env = {**starter(runtime)["env"], **caller_of(home)}
            options = ["--gpu", "virgl", "perl", "-MIO::Socket::UNIX", "-e", guest]
            started = Container(place / "debian").run(runtime, *options, env=env)
            assert started.returncode == 0, started
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"hello"
        (home / "tmp/.virgl_test").unlink()


@contextmanager
def _bound(path: Path) -> Iterator[Any]:
    """A socket at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in (path.parent, path.parent.parent):
        parent.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        yield server


def test_the_table_is_documented() -> None:
    """Each row of the table that names a place, a variable or a program is in the page."""
    script = read_resource("scripts/start", "desktop.sh").decode()
    table = script.partition("desktop_table='\n")[2].partition("'\n")[0]
    page = (CHECKOUT / "docs/start-sh.md").read_text()
    for row in table.splitlines():
        option, action, rest = row.split(" ", 2)
        assert f"`--{option}" in page
        if action in ("run", "termux"):
            assert f"`{rest.removesuffix(' &')}" in page, rest
        elif action in ("directory", "socket"):
            assert f"`{rest.split()[0]}" in page, rest
        else:
            assert f"`{re.split('[ =]', rest)[0]}" in page, rest
