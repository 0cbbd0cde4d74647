"""Escaping: every character of Unicode, and everything that people see on standard error."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.terminal.escaping import printable, shell_line, shell_word
from provisioner.terminal.progress import Console
from tests.support.shell_texts import TEXT

SEEN = {"L", "M", "N", "P", "S"}
"""The first letters of Unicode's categories of what can be seen: letters, marks, numbers, punctuation, symbols."""


def test_of_all_of_unicode_only_what_can_be_seen_is_shown_as_it_is() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = printable(character)
        if character == " " or unicodedata.category(character)[0] in SEEN:
            assert shown == character
        else:
            assert shown.isascii()
            assert shown.startswith("\\")
            assert shown.isprintable()


@pytest.mark.parametrize(
    "character",
    [
        *map(chr, range(0x20)),
        *map(chr, range(0x7F, 0xA0)),  # DEL and C1: U+009B is a CSI
        *map(chr, range(0x202A, 0x202F)),  # embeddings and overrides of direction
        *map(chr, range(0x2066, 0x206A)),  # isolates
        *"\u200b\u200c\u200d\u200e\u200f\u061c\ufeff\u00ad\u2028\u2029\ud800\udfff\ue000\uffff",
    ],
    ids=lambda character: f"U+{ord(character):04X}",
)
def test_what_a_terminal_obeys_or_hides_is_escaped(character: str) -> None:
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape', 'surrogatepass').decode()}b"


@given(st.text(st.characters()), st.text(st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp"))))
def test_no_text_makes_a_console_say_anything_but_one_line(text: str, evil: str) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.step(text + evil)
    console.error(evil + text, text + evil + "x")
    with console.progress(1) as progress:
        progress.describe(evil)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)


@given(st.text())
def test_what_is_escaped_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("usr/bin/env", "usr/bin/env"),
        ("n\u00e4me", "n\u00e4me"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eevil", r"\u202eevil"),
        (b"\xff.txt", r"\udcff.txt"),
        (b"plain", "plain"),
    ],
)
def test_names_from_outside_are_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


@given(st.one_of(st.binary(), st.text()))
def test_anything_can_be_shown(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a", "a"),
        ("a b", "'a b'"),
        ("a\nb c", "\"$(printf 'a\\012b c')\""),
        ("-a\x1b%'!\\", "\"$(printf '\\055a\\033\\045\\047\\041\\134')\""),
        ("a\n", "$'a\\012'"),
        ("\ud800", "\"$(printf '\\355\\240\\200')\""),
    ],
)
def test_words_for_the_shell(text: str, word: str) -> None:
    assert shell_word(text) == word
    assert shell_line([text, "b c"]) == f"{word} 'b c'"


@given(TEXT)
def test_a_word_can_be_copied_into_a_shell(text: str) -> None:
    word = shell_word(text)
    assert word.isprintable()
    shell = "bash" if word.startswith("$'") else "sh"
    done = subprocess.run([shell, "-c", f"printf '%s' {word}"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == os.fsencode(text)
