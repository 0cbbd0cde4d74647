"""Typos: how many a word is away from others."""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST = 2
"""Letters of the shortest word that can be a typo. Both are right then: one is left out, or they are swapped."""
_MOST = 2
"""The most typos of a word."""
_LONG = 6
"""Letters from which on a word may have so many."""


def count_typos(one: str, other: str) -> int:
    """Return how many letters are to be put in, left out, changed or swapped with the next one between two words.

    This is the optimal string alignment distance.
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above = row
        row = [i]
        for j, its in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != its)))
            if i > 1 and j > 1 and letter == other[j - 2] and its == one[i - 2]:
                row[-1] = min(row[-1], before[j - 2] + 1)
        before = above
    return row[-1]


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the first of the names with the fewest typos; empty where all have more than a word of its length has.

    Of a word with two typos the first letter is right, or swapped with the second one.
    """
    if len(word) < _SHORTEST:
        return ""
    typos = {name: count_typos(word, name) for name in names if abs(len(name) - len(word)) <= _MOST}
    near = [name for name, count in typos.items() if count == 1]
    if len(word) == _SHORTEST:
        return next((name for name in near if len(name) > _SHORTEST or name == word[::-1]), "")
    if not near and len(word) >= _LONG:
        starts = (word[:1], word[1::-1])
        near = [name for name, count in typos.items() if count == _MOST and name.startswith(starts)]
    return near[0] if near else ""
