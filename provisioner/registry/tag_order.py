"""The order in which tags are listed: `latest`, then versions, the newest first, then everything else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

_RELEASE = re.compile(r"v?([0-9]{1,100}(?:\.[0-9]{1,100})*)", re.IGNORECASE)
_DATE = re.compile(r"v?((?:19|20)[0-9]{2})([-.]?)([01][0-9])\2([0-3][0-9])([0-9]{4}(?:[0-9]{2})?)?(?![0-9])")
_WORDS = re.compile(r"([0-9]{1,100})|([a-z]+)")
# Commit ids, and the signatures that cosign attaches to images.
_HASH = re.compile(r"(?:(?:sha|git|commit)-?)?(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,}|sha256-[0-9a-f]{64}.*")

_PRERELEASES = {
    "rc": 1, "c": 1, "cr": 1, "ea": 1,
    "beta": 2, "b": 2, "preview": 2, "pre": 2,
    "alpha": 3, "a": 3, "m": 3, "milestone": 3,
    "dev": 4, "snapshot": 4, "nightly": 4, "canary": 4, "unstable": 4,
}  # fmt: skip
"""Words that mark a version as a pre-release, and its stage: the higher, the longer before the release."""

_NEEDS_NUMBER = {"a", "b", "c", "m"}
"""The words that mark a pre-release only if a number follows (`1.0-a` may be a variant)."""

_LATEST, _VERSION, _DATED, _NAME, _HASHED = range(5)
"""Groups of tags, in the order of the list."""

Key = tuple[int, tuple[int, ...], tuple[int, int], tuple[tuple[int, int, str], ...], str]
"""A sort key: the group, the numbers of the version or date, the pre-release, the words of the rest, the tag itself."""


def newest_first(tags: Iterable[str]) -> list[str]:
    """Return the tags sorted: `latest`, versions, dates, other names, and at the end commit ids.

    Numbers compare as numbers (3.10 is newer than 3.9). A release comes before its variants (24.04, 24.04-slim), which
    are in alphabetical order, and these come before its pre-releases (3.13rc2).
    """
    return sorted(tags, key=_key)


def _key(tag: str) -> Key:
    """Return the sort key of a tag. Ascending keys list the newest first, so all numbers in a key are negated."""
    text = tag.lower()
    numbers: tuple[int, ...] = ()
    if _HASH.fullmatch(text):
        return _HASHED, numbers, (0, 0), (), tag
    if match := _DATE.match(text):
        year, _, month, day, time = match.groups()
        group, numbers = _DATED, (-int(f"{year}{month}{day}"), -int((time or "").ljust(6, "0")))
    elif match := _RELEASE.match(text):
        # The 1 at the end puts 3.13 after 3.13.0, which is the newer one.
        group, numbers = _VERSION, (*(-int(digits) for digits in match[1].split(".")), 1)
    else:
        group = _LATEST if re.match(r"latest(?![a-z0-9])", text) else _NAME
    words = _WORDS.findall(text, match.end() if match else 0)
    prerelease = _prerelease(words) if group == _VERSION else (0, 0)
    return group, numbers, prerelease, tuple((0, -int(n), "") if n else (1, 0, word) for n, word in words), tag


def _prerelease(words: list[tuple[str, str]]) -> tuple[int, int]:
    """Return the stage of a pre-release and its number, negated: (1, -2) for rc2; (0, 0) for a release."""
    for (_, word), (number, _) in pairwise([*words, ("", "")]):
        if word in _PRERELEASES and (number or word not in _NEEDS_NUMBER):
            return _PRERELEASES[word], -int(number or 0)
    return 0, 0
