"""Images that start.sh has to start: those without tools, and anything that an image may say of its command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from .containers import ENVIRONMENT, SHELLS, Container, hand_over, make_container, starter
from .test_launcher import NAMES, TEXT
from .tools import need


def test_scratch_images_start(scratch: Container, runtime: str) -> None:
    scratch.set(image_env=("PATH=/sbin:/app", "A=b\nc"), image_workdir="/made/here", image_user="65532:65533")
    assert scratch.output(runtime, "pwd") == b"/made/here\n"
    told = scratch.output(runtime, "id").split()
    assert told[:2] == [b"uid=65532", b"gid=65533"]
    assert len(told) == 2 or os.geteuid()  # other groups are those of whoever runs the tests
    found = scratch.words(runtime, *ENVIRONMENT, env={**starter(runtime)["env"], "SECRET": "x", "TERM": "dumb"})
    assert {b"A=b\nc", b"TERM=dumb"} < set(found)
    assert b"SECRET=x" not in found


def test_an_image_with_a_shell_but_no_env_starts(container: Container, runtime: str) -> None:
    (container.rootfs / "usr/bin/env").unlink()
    (container.rootfs / "app").mkdir()
    (container.rootfs / "app/told").write_text('#!/bin/sh\necho "$A $(pwd)"')
    (container.rootfs / "app/told").chmod(0o755)
    hand_over(container.set(image_env=("PATH=/app:/bin", "A=b"), image_workdir="/made/here"))
    assert container.output(runtime, "told") == b"b /made/here\n"


# Anything an image may say


@pytest.fixture(scope="module")
def shared(lasting_place: Path) -> Container:
    return make_container(lasting_place / "shared")


COMPONENT = TEXT.filter(lambda text: 0 < len(os.fsencode(text)) < 200 and "/" not in text and text not in (".", ".."))


@pytest.mark.parametrize("shell", SHELLS)
@hypothesis_settings(max_examples=25, deadline=None)
@given(
    words=st.lists(TEXT, max_size=4),
    cut=st.integers(0, 4),
    env=st.dictionaries(NAMES.filter(lambda name: name not in ("PATH", "HOME")), TEXT, max_size=3),
    directory=COMPONENT,
    ids=st.tuples(st.integers(0, 2**31 - 2), st.integers(0, 2**31 - 2)),
)
def test_the_guest_sees_exactly_what_the_image_says(
    shared: Container, shell: str, words: list[str], cut: int, env: dict[str, str], directory: str, ids: tuple[int, int]
) -> None:
    need(SHELLS[shell][0])
    guest = ("/bin/sh", "-c", 'cat /proc/self/environ; printf "%s\\0" "$(id -u):$(id -g)" "$PWD" "$@"', "say")
    shared.set(
        image_entrypoint=guest + tuple(words[:cut]),
        image_command=tuple(words[cut:]),
        image_env=("PATH=/bin", *(f"{name}={value}" for name, value in env.items())),
        image_workdir=f"/tmp/{directory}",
        image_user=f"{ids[0]}:{ids[1]}",
    )
    told = shared.words("proot", shell=SHELLS[shell])
    say_from = told.index(f"{ids[0]}:{ids[1]}".encode())
    assert told[say_from + 1 :] == [os.fsencode(word) for word in (f"/tmp/{directory}", *words)]
