"""The quoted assignments in front of start.sh's body."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.launch.launcher import launcher
from provisioner.launch.script import body
from provisioner.launch.settings import LaunchSettings
from tests.support.containers import SHELLS
from tests.support.shell_texts import NAMES, TEXT
from tests.support.tools import need

SETTINGS = LaunchSettings(
    provision_version="0.1.0",
    image_reference="docker.io/library/ubuntu:24.04",
    image_platform="linux/arm64/v8",
    image_entrypoint=("/bin/entry", "it's"),
    image_command=("say", "two words", "", "$(touch canary)"),
    image_env=("PATH=/bin", "NOTE=a 'b'\n\"c\" `d` \\e", "EMPTY="),
    image_user="joe",
    image_workdir="/srv/my app",
    image_localtime="/usr/share/zoneinfo/Etc/UTC",
    image_stop_signal="SIGINT",
    image_ports=("80/tcp", "53/udp"),
    default_runtime="auto",
    default_dns=("1.1.1.1", "::1"),
    default_hostname="box",
    default_binds=("/a b:/c",),
    default_env=("K=V",),
)

WORDS = st.lists(TEXT, max_size=4).map(tuple)
ASSIGNMENTS = st.dictionaries(NAMES, TEXT, max_size=3).map(
    lambda values: tuple(f"{name}={value}" for name, value in values.items())
)


def read_back(script: bytes, shell: list[str]) -> LaunchSettings:
    """What a real shell makes of the assignments in front of the body."""
    reader = "show() { printf '%s\\0' $#; for word; do printf '%s\\0' \"$word\"; done; }\n"
    for field in dataclasses.fields(LaunchSettings):
        is_list = isinstance(getattr(SETTINGS, field.name), tuple)
        reader += f'eval "show ${field.name}"\n' if is_list else f'show "${field.name}"\n'
    prelude = script.removesuffix(body())
    # From standard input: the length of one argument has a limit.
    done = subprocess.run(shell, input=b"set -fu\n" + prelude + reader.encode(), capture_output=True, check=True)
    assert done.stderr == b""
    printed = iter(done.stdout.split(b"\0"))
    found: dict[str, str | tuple[str, ...]] = {}
    for field in dataclasses.fields(LaunchSettings):
        words = tuple(os.fsdecode(next(printed)) for _ in range(int(next(printed))))
        found[field.name] = words if isinstance(getattr(SETTINGS, field.name), tuple) else words[0]
    assert next(printed) == b""
    return LaunchSettings(**found)  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_read_what_was_written(shell: str) -> None:
    need(SHELLS[shell][0])
    assert read_back(launcher(SETTINGS), SHELLS[shell]) == SETTINGS


@pytest.mark.parametrize("shell", SHELLS)
@hypothesis_settings(max_examples=50, deadline=None)
@given(words=WORDS, word=TEXT, assignments=ASSIGNMENTS)
@example(words=("",), word="'", assignments=("-S=x",))
@example(words=("\n", "\x81\x88"), word="\n\n", assignments=())
@pytest.mark.slow
def test_no_text_is_changed_or_acted_on(
    shell: str, words: tuple[str, ...], word: str, assignments: tuple[str, ...]
) -> None:
    need(SHELLS[shell][0])
    texts = {field.name: word for field in dataclasses.fields(LaunchSettings)}
    lists = {name: words for name in texts if isinstance(getattr(SETTINGS, name), tuple)}
    settings = LaunchSettings(**{**texts, **lists, "image_env": assignments, "default_env": assignments})  # type: ignore[arg-type]
    assert read_back(launcher(settings), SHELLS[shell]) == settings


def test_what_env_cannot_set_is_left_out() -> None:
    odd = dataclasses.replace(SETTINGS, image_env=("A=1", "NOTHING", "=x", ""), default_env=("=", "B=", "PASSED", ""))
    assert b"image_env=A=1\n" in launcher(odd)
    assert b"default_env='B= PASSED'\n" in launcher(odd)


def test_each_variable_is_written_once_with_its_last_value_at_its_first_place() -> None:
    twice = dataclasses.replace(SETTINGS, image_env=("A=1", "B=2", "A=3", "C=", "B=4"), default_env=("X", "Y=1", "X=2"))
    assert b"image_env='A=3 B=4 C='\n" in launcher(twice)
    assert b"default_env='X=2 Y=1'\n" in launcher(twice)


@pytest.mark.parametrize("value", ["a\0b", "\0", "\ud800", "x\udfff"])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LaunchSettings)])
def test_what_no_program_can_be_given_is_refused(field: str, value: str) -> None:
    value = f"K={value}"
    unusable = (value,) if isinstance(getattr(SETTINGS, field), tuple) else value
    with pytest.raises(MalformedImage) as caught:
        launcher(dataclasses.replace(SETTINGS, **{field: unusable}))  # type: ignore[arg-type]
    assert caught.value.status == 6
    assert field.replace("_", " ") in caught.value.message
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


def test_first_line_is_the_shell_that_was_chosen() -> None:
    assert launcher(SETTINGS).startswith(b"#!/bin/sh -\n")
    termux = "/data/data/com.termux/files/usr/bin/sh"
    assert launcher(SETTINGS, termux).startswith(f"#!{termux} -\n".encode())


@pytest.mark.parametrize("shell", ["/bin/my sh", "/bin/sh\ntouch canary", "sh", ""])
def test_a_shell_that_a_first_line_cannot_name_is_refused(shell: str) -> None:
    with pytest.raises(ValueError, match="first line"):
        launcher(SETTINGS, shell)


def test_the_body_says_nothing_of_an_image() -> None:
    assert launcher(SETTINGS).endswith(b"\n\n" + body())
    assert not re.search(rb"^(image|default)_\w+=", body(), re.MULTILINE)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_parse_it(shell: str) -> None:
    need(SHELLS[shell][0])
    done = subprocess.run([*SHELLS[shell], "-n"], input=launcher(SETTINGS), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
