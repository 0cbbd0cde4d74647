"""With one id, an entrypoint that starts itself again as another user, without end, is told and ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.containers import Container, make_container, starter

pytestmark = pytest.mark.slow
BECOME = '#!/bin/sh\n[ "$(id -u)" != 0 ] || exec busybox su joe -c "exec $0 $*"\nexec "$@"\n'
"""The entrypoint of most images of daemons, by what busybox has in place of gosu and su-exec."""


@pytest.fixture
def container(place: Path) -> Container:
    starter("userns")
    target = make_container(place / "container", image_entrypoint=("/entry",))
    write_entrypoint(target, BECOME)
    return target


def write_entrypoint(target: Container, text: str) -> None:
    (target.rootfs / "entry").write_text(text)
    (target.rootfs / "entry").chmod(0o755)


@pytest.mark.parametrize("start", ["by itself", "below an init", "typed"])
def test_an_entrypoint_that_never_becomes_another_user_ends(container: Container, start: str) -> None:
    words: list[str] = ["id"]
    if start == "below an init":
        (container.rootfs / "bin/tini").write_text('#!/bin/sh\n"$@" & wait $!\n')
        (container.rootfs / "bin/tini").chmod(0o755)
        words = ["--entrypoint", "tini", "--", "/entry", "id"]
    elif start == "typed":
        (container.rootfs / "entry").rename(container.rootfs / "docker-entrypoint.sh")
        words = ["--entrypoint", "", "--", "/docker-entrypoint.sh", "id"]
    done = container.run("userns", *words)
    assert done.stderr.startswith(b"start.sh: the entrypoint starts itself again without end")
    assert b"--ids many" in done.stderr
    assert (done.returncode, done.stdout) == (125, b"")
    assert container.output("", "--list", by="userns") == b""


def test_others_are_left_alone(container: Container) -> None:
    """Who waits before it starts itself again, and who computes; at the same time."""
    write_entrypoint(
        container,
        "#!/bin/sh\ncase $1 in\nbusy) while [ ! -e /end ]; do :; done ;;\n"
        '80) touch /end ;;\n*) sleep 0.1; exec "$0" $(($1 + 1)) ;;\nesac\n',
    )
    with container.running("userns", "busy") as busy:
        began = time.monotonic()
        assert container.output("userns", "1") == b""
        assert time.monotonic() - began > 8
        assert busy.wait(60) == 0


def test_what_is_typed_is_not_watched(container: Container) -> None:
    container.set(image_entrypoint=())
    assert b"sleep 1" not in container.output("userns", "busybox", "sh", "-c", "sleep 0.2; busybox ps")
    container.set(image_entrypoint=("busybox",))
    watched = 'until case $(busybox ps) in *"sleep "[1]*) ;; *) false ;; esac; do sleep 0.05; done'
    container.output("userns", "sh", "-c", watched)


def test_signals_reach_the_guest_and_not_the_watch(container: Container) -> None:
    container.set(image_entrypoint=("sh", "-c"))
    with container.running("userns", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.02; done") as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.2)
        process.terminate()
        assert process.wait(60) == 41


def test_a_guest_that_is_killed_keeps_its_status(container: Container) -> None:
    container.set(image_entrypoint=("sh", "-c"))
    assert container.run("userns", "kill -s KILL $$").returncode == 137
