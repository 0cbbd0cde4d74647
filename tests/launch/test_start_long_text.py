"""Long commands, environments and messages: what start.sh does with a text takes time in proportion to its length.

Each of these took between ten seconds and hours where a part of a text was copied for each other part: a loop like that
would exceed the time limit of Container.run by far.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import ENVIRONMENT, SAY, SHELLS, Container, starter
from tests.support.tools import need

pytestmark = pytest.mark.slow

TEXTS = {
    "a megabyte": ["x'y z" * 20_000] * 10,
    "lines": ["a line of it\n" * 9_000] * 4,
    "quotes": ["'" * 120_000] * 2,
    "words": [f"word {number}" for number in range(40_000)],
    "control characters": ["\x01\x9b\x85\n" * 20_000],
    "of C1": ["\udc9b\udc85a" * 40_000],
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_command_of_any_length_starts(container: Container, runtime: str, text: str) -> None:
    words = TEXTS[text]
    expected = [word.encode("utf-8", "surrogateescape") for word in words]
    assert container.words(runtime, *SAY, *words) == expected


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("text", TEXTS)
def test_in_every_shell(container: Container, shell: str, text: str) -> None:
    need(SHELLS[shell][0])
    words = TEXTS[text]
    expected = [word.encode("utf-8", "surrogateescape") for word in words]
    assert container.words("proot", *SAY, *words, shell=SHELLS[shell]) == expected


@pytest.mark.parametrize("text", [name for name in TEXTS if name != "words"])
def test_an_image_s_command_of_any_length_starts(container: Container, runtime: str, text: str) -> None:
    words = [word[:100_000] for word in TEXTS[text]]
    container.set(image_entrypoint=(*SAY, *words))
    assert container.words(runtime) == [word.encode("utf-8", "surrogateescape") for word in words]


@pytest.mark.parametrize("origin", ["image_env", "default_env"])
def test_five_thousand_variables(container: Container, runtime: str, origin: str) -> None:
    many = tuple(f"VARIABLE_{number}=value of '{number}'" for number in range(5000))
    container.set(**{"image_env": ("PATH=/bin",), origin: ("PATH=/bin", *many)})
    env = {**starter(runtime)["env"], "TOKEN": "x"}
    options = ["--env", "VARIABLE_7=typed", "--env", "TOKEN", "--unsetenv", "VARIABLE_8"]
    for given in ([], options):
        found = container.words(runtime, *given, *ENVIRONMENT, env=env)
        assert len([word for word in found if word.startswith(b"VARIABLE_")]) == (4999 if given else 5000)
        assert (b"VARIABLE_7=typed" in found) == bool(given)
        assert (b"TOKEN=x" in found) == bool(given)


@pytest.mark.parametrize("kind", ["options", "file"])
def test_five_thousand_typed_variables(container: Container, place: Path, runtime: str, kind: str) -> None:
    many = [f"V{number}=value of {number}" for number in range(5000)]
    (place / "file").write_text("\n".join(many))
    options = (
        [word for entry in many for word in ("-e", entry)] if kind == "options" else ["--env-file", f"{place}/file"]
    )
    assert {entry.encode() for entry in many} <= set(container.words(runtime, *options, *ENVIRONMENT))


def test_typed_words_are_passed_on_twice(container: Container, runtime: str) -> None:
    """A shell takes milliseconds to pass a megabyte to a function: only `main` gets all words, and what it becomes."""
    need("dash")
    mark = "mark" * 1000
    done = container.run(runtime, "sh", "-c", "true", "x" * 3000, mark, shell=("dash", "-x"))
    assert done.returncode == 0
    assert done.stderr.count(mark.encode()) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_printed_is_the_command(container: Container, text: str) -> None:
    words = [word[:30_000] for word in TEXTS[text]]
    shown = container.output("proot", "--print", "true", *words)
    assert len(shown) > sum(map(len, words)) / 2
    assert b"\x01" not in shown
    assert b"\xc2\x9b" not in shown


@pytest.mark.parametrize("text", [name for name in TEXTS if name != "words"])
def test_a_message_about_it_is_one_line(container: Container, text: str) -> None:
    done = container.run("proot", "--user", TEXTS[text][0], "true")
    assert done.returncode == 125
    assert done.stderr.count(b"\n") == 1
    assert not set(done.stderr[:-1]) & set(range(32))


def test_list_shows_the_beginning_of_a_long_command(container: Container, runtime: str) -> None:
    guest = ("sh", "-c", "echo begun; cat", *TEXTS["a megabyte"])
    with container.running(runtime, *guest, stdin=-1) as process:
        assert process.stdout
        process.stdout.readline()
        (line,) = container.output("", "--list", by=runtime).decode().splitlines()
        process.communicate()
    assert "sh -c 'echo begun; cat' 'x" in line
    assert line.endswith("...")
    assert len(line) < 20_000
