"""The order in which people read the tags of an image: `latest`, then versions, the newest first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

_RELEASE = re.compile(r"v?([0-9]{1,100}(?:\.[0-9]{1,100})*)", re.IGNORECASE)
_DATE = re.compile(r"v?((?:19|20)[0-9]{2})([-.]?)([01][0-9])\2([0-3][0-9])([0-9]{4}(?:[0-9]{2})?)?(?![0-9])")
_WORDS = re.compile(r"([0-9]{1,100})|([a-z]+)")
# Commit ids, and what cosign attaches to images.
_HASH = re.compile(r"(?:(?:sha|git|commit)-?)?(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,}|sha256-[0-9a-f]{64}.*")

_BEFORE_RELEASE = {
    "rc": 1, "c": 1, "cr": 1, "ea": 1,
    "beta": 2, "b": 2, "preview": 2, "pre": 2,
    "alpha": 3, "a": 3, "m": 3, "milestone": 3,
    "dev": 4, "snapshot": 4, "nightly": 4, "canary": 4, "unstable": 4,
}  # fmt: skip
"""Words that make a version one which came before its release, and how long before."""
_NEEDS_NUMBER = {"a", "b", "c", "m"}

_LATEST, _VERSION, _DATED, _NAME, _HASHED = range(5)

Key = tuple[int, tuple[int, ...], tuple[int, int], tuple[tuple[int, int, str], ...], str]


def newest_first(tags: Iterable[str]) -> list[str]:
    """Sort tags: `latest`, versions, dates, other names, and at the end the ids of commits.

    Numbers count as numbers (3.10 is newer than 3.9), a release is newer than its candidates, and comes before its
    variants (24.04, 24.04-slim), which are in alphabetical order.
    """
    return sorted(tags, key=_key)


def _key(tag: str) -> Key:
    """A key whose ascending order is the one that is wanted: all numbers in it are negated."""
    text = tag.lower()
    numbers: tuple[int, ...] = ()
    if _HASH.fullmatch(text):
        return _HASHED, numbers, (0, 0), (), tag
    if match := _DATE.match(text):
        year, _, month, day, time = match.groups()
        group, numbers = _DATED, (-int(f"{year}{month}{day}"), -int((time or "").ljust(6, "0")))
    elif match := _RELEASE.match(text):
        # The 1 at the end puts 3.13 after 3.13.0, as the older of both.
        group, numbers = _VERSION, (*(-int(digits) for digits in match[1].split(".")), 1)
    else:
        group = _LATEST if re.match(r"latest(?![a-z0-9])", text) else _NAME
    words = _WORDS.findall(text, match.end() if match else 0)
    stage = _stage(words) if group == _VERSION else (0, 0)
    return group, numbers, stage, tuple((0, -int(n), "") if n else (1, 0, word) for n, word in words), tag


def _stage(words: list[tuple[str, str]]) -> tuple[int, int]:
    """How long before its release a version came, and the number of that stage, negated: (1, -2) for rc2."""
    for (_, word), (number, _) in pairwise([*words, ("", "")]):
        if word in _BEFORE_RELEASE and (number or word not in _NEEDS_NUMBER):
            return _BEFORE_RELEASE[word], -int(number or 0)
    return 0, 0
