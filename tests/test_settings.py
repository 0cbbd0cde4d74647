"""Settings files: TOML by a table of keys, and the errors that name the line and the key."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import UsageError
from provisioner.settings import Key, line_of, parse_settings, read_settings, texts, with_list
from provisioner.sizes import parse_size

KEYS = {"names": Key(texts, "list of names"), "limit": Key(parse_size, "a size")}


def test_values_are_parsed() -> None:
    assert parse_settings('names = ["a"]\nlimit = "2 kB"', KEYS, "f") == {"names": ("a",), "limit": 2000}
    assert parse_settings("", KEYS, "f") == {}


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("# x\n\nname = []", "f has an unknown key 'name'; did you mean names? (line 3)", "known keys: names, limit"),
        ("[names]\na = 1", "f: names: not a list of texts (line 1)", "names: list of names"),
        ("\nlimit = 'much'", "f: limit: not a size such as 500 MB or 4 GB (line 2)", "limit: a size"),
        ("a =\n", "f is not TOML: Invalid value (at line 1", "the syntax is described at https://toml.io"),
        ("a = " + "[" * 5000, "f is not TOML", "https://toml.io"),
        ("a = " + "1" * 5000, "f is not TOML", "https://toml.io"),  # Python refuses to read such numbers
        ('"\\u001b[31m" = 1', r"f has an unknown key '\x1b[31m'", "known keys"),
    ],
)
def test_mistakes_are_reported_with_line_and_key(text: str, says: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_settings(text, KEYS, "f")
    assert raised.value.message.startswith(says)
    assert raised.value.message.isprintable()
    assert hint in raised.value.hint


@given(st.text() | st.text(alphabet='names=["] \n.\\'))
def test_any_text_is_settings_or_a_usage_error(text: str) -> None:
    try:
        parse_settings(text, KEYS, "f")
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017  most texts are wrong, some are not


def test_lines_of_json_too_and_not_in_comments() -> None:
    assert line_of('{\n "auths": {\n  "a.b": {}\n }}', "a.b") == " (line 3)"
    assert line_of("# names = 1\nnames = 2", "names") == " (line 2)"
    assert line_of("[names]\n", "names") == " (line 1)"
    assert line_of("surnames = 1", "names") == ""


@pytest.mark.parametrize("piece", ["a", " ", '"', "a.", "names", "\n", "= "])
def test_long_lines_cost_no_time(piece: str) -> None:
    began = time.process_time()
    line_of(piece * 65536, "names")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"\xff", "not UTF-8"), (bytes((4 << 20) + 1), "too large")],
)
def test_files_that_cant_be_read(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError, match=why):
        read_settings(tmp_path / "f")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[mirrors]\n"a.b" = ["c"]\n'),
        ("jobs = 3", 'jobs = 3\n\n[mirrors]\n"a.b" = ["c"]\n'),
        ("[mirrors] # of work\nx = []\n[lxc]\n", '[mirrors] # of work\n"a.b" = ["c"]\nx = []\n[lxc]\n'),
        ("[mirrors]\n'a.b' = [\n  'x',  # old\n]\n# kept\ny = []", '[mirrors]\n"a.b" = ["c"]\n# kept\ny = []'),
        ("[mirrors]\n'a.b' = [\n # mine\n 'x', # old\n]\n", '[mirrors]\n # mine\n"a.b" = ["c"]\n'),
        ('[z]\n"a.b" = 1\n[ "mirrors" ]\n\n"a.b"=[]\n', '[z]\n"a.b" = 1\n[ "mirrors" ]\n\n"a.b" = ["c"]\n'),
        ('x = """\n[mirrors]\n"""\n[mirrors]\n', None),
        ("mirrors = {}", None),
        ("mirrors.x = []", None),
        ("[[mirrors]]", None),
        ("mirrors = 5", None),
        ("[mirrors.x]\ny = []", '[mirrors.x]\ny = []\n\n[mirrors]\n"a.b" = ["c"]\n'),
    ],
)
def test_a_list_is_changed_in_its_place(before: str, after: str | None) -> None:
    if after is None:
        with pytest.raises(ValueError, match="mirrors is not"):
            with_list(before, "mirrors", "a.b", ["c"])
    else:
        assert with_list(before, "mirrors", "a.b", ["c"]) == after


PIECES = ["[mirrors]", "[lxc]", "[[x]]", '"a.b" = ["x"]', "'a.b' = [", "]", "a.b = 1", "mirrors = {}", "# a.b = []",
          '"""', "", 'text = """', "x = 'a'", '  "a.b" = [ "x", # c', "\ta.b=[]", "[mirrors.y]", "\r"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_whatever_the_file_is_like_only_this_list_changes(lines: list[str], end: str) -> None:
    text = end.join(lines)
    try:
        expected = tomllib.loads(text)
    except ValueError:
        return
    try:
        changed = with_list(text, "mirrors", "a.b", ["c", "d"])
    except ValueError:
        return
    expected.setdefault("mirrors", {})["a.b"] = ["c", "d"]
    assert tomllib.loads(changed) == expected
    comments = [line for line in lines if line.startswith("#")]
    assert all(comment in changed for comment in comments)
