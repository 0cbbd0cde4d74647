"""Sizes as people write them, in config.toml and in options, and as they read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import provisioner
from provisioner.sizes import counted, parse_size, size_text


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (0, 0),
        (500, 500),
        ("0", 0),
        ("1", 1),
        ("12", 12),
        ("12 B", 12),
        ("1B", 1),
        ("2k", 2000),
        ("2 KB", 2000),
        ("1.5kB", 1500),
        ("500M", 500_000_000),
        ("500 MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("20G", 20 * 10**9),
        ("2 GB", 2 * 10**9),
        ("1.5T", 15 * 10**11),
        ("3 t", 3 * 10**12),
        ("1P", 10**15),
        ("1 PB", 10**15),
        ("500Mi", 500 << 20),
        ("0.5GiB", 1 << 29),
        ("1.5Gi", 3 << 29),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("1KiB", 1 << 10),
        ("1TiB", 1 << 40),
        ("1Pi", 1 << 50),
        ("  1  MB ", 10**6),
        ("1.123456789G", 1_123_456_789),
        ("123456789012345678", 123456789012345680),
    ],
)
def test_sizes_are_read_as_people_write_them(value: object, count: int) -> None:
    assert parse_size(value) == count


@pytest.mark.parametrize(
    "value",
    ["", "GB", "-1", "1e9", "1 EB", "20X", "20i", "20iB", "1.2.3", "1.", ".5", "½", "1 M B", "1\u212a",
     True, -1, 1.5, None, [], b"1"],
)  # fmt: skip
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (28_940_000, "28.9 MB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5 * 10**9, "5.0 GB"),
        (12_300 * 10**9, "12.3 TB"),
    ],
)
def test_sizes_as_people_read_them(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ["file"], "0 files"),
        (1, ["file"], "1 file"),
        (2, ["file"], "2 files"),
        (1_204, ["copy, which takes", "copies, which take"], "1,204 copies, which take"),
        (1, ["copy, which takes", "copies, which take"], "1 copy, which takes"),
    ],
)
def test_what_is_counted_has_its_number(count: int, words: list[str], text: str) -> None:
    assert counted(count, *words) == text


def test_no_message_has_a_number_before_a_plural_that_it_does_not_choose() -> None:
    """`{len(paths)} files` says "1 files"; `counted` doesn't."""
    nouns = "files|layers|images|directories|changes|packages|links|sockets|copies|attributes|devices|tags"
    pattern = re.compile(rf"\{{[^{{}}]*(?:count|len\(|links|lost|left)[^{{}}]*\}}(?: more)? (?:{nouns})\b")
    # Of two or more alone.
    rare = "is the most|and the config|has .* layers|(manifests|images)\\)} images|tags only the|files and directories"
    for path in sorted(Path(provisioner.__file__).parent.rglob("*.py")):
        for line in path.read_text().splitlines():
            assert not pattern.search(line) or re.search(rare, line) or '"""' in line, f"{path.name}: {line.strip()}"
