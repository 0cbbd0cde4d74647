"""What made each layer, by the history of a config."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provisioner.image.history import layer_commands, short_command


def history(*entries: Any) -> bytes:
    return json.dumps({"history": entries}).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/bin/sh -c #(nop) ADD file:1a2b in / ", "ADD file:1a2b in /"),
        ("/bin/sh -c apt-get update &&     apt-get install", "apt-get update && apt-get install"),
        ("RUN /bin/sh -c make # buildkit", "make"),
        ("RUN |1 A=b /bin/sh -c make # buildkit", "make"),
        ("COPY /app /app # buildkit", "COPY /app /app"),
        ("bazel build ...", "bazel build ..."),
        (None, ""),
        (5, ""),
    ],
)
def test_a_command_is_shown_without_what_builders_add(text: object, shown: str) -> None:
    assert layer_commands(history({"created_by": text}), 1) == (shown,)


def test_entries_without_a_layer_are_left_out() -> None:
    entries = [{"created_by": "one"}, {"created_by": "ENV A=1", "empty_layer": True}, {"created_by": "two"}]
    assert layer_commands(history(*entries), 2) == ("one", "two")


@pytest.mark.parametrize("config", [b"{}", b'{"history": null}', b'{"history": 5}', history({}, {}, {}), history("x")])
def test_a_history_that_does_not_fit_says_nothing(config: bytes) -> None:
    assert layer_commands(config, 2) == ("", "")


def test_what_is_not_utf_8_is_replaced() -> None:
    config = history({"created_by": "a"}).replace(b'"a"', b'"\xff"')
    assert layer_commands(config, 1) == ("\ufffd",)


@pytest.mark.parametrize(
    ("command", "short"),
    [
        (f"ADD file:9d8a15341d36{'4' * 52} in /", "ADD file:9d8a15341d36 in /"),
        (f"COPY dir:44e0f517e5e8{'a' * 52} in /opt", "COPY dir:44e0f517e5e8 in /opt"),
        (f"COPY multi:0123456789ab{'c' * 52} in /", "COPY multi:0123456789ab in /"),
        (f"curl https://example.org/{'0' * 64}", f"curl https://example.org/{'0' * 64}"),
        (f"ADD file:{'0' * 65} in /", f"ADD file:{'0' * 65} in /"),
        ("ADD file:1a2b in /", "ADD file:1a2b in /"),
    ],
)
def test_digests_of_copied_files_are_short_for_people(command: str, short: str) -> None:
    assert short_command(command) == short
