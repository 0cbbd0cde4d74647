"""Goes through ownership records and the tree on the disk at the same time, path by path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from provisioner.filesystem.walk import WalkedFile
from provisioner.ownership.mtree import MtreeEntry


class Joined(NamedTuple):
    """A path that a record or the tree has."""

    path: bytes
    """From the root, without a slash in front of it; empty for the root itself."""
    entries: tuple[MtreeEntry | None, ...]
    """What each of the records says of it; None where it has no such path."""
    file: WalkedFile | None
    """The file on the disk; None where there is none. Its directory is open until the next path is asked for."""


def join(records: Sequence[Iterator[MtreeEntry | None]], tree: Iterator[WalkedFile | None]) -> Iterator[Joined]:
    """Yield all paths of the records and the tree, which are in the order of `walk`, a directory before its content.

    Raises what reading them raises.
    """
    streams: list[Iterator[Any]] = [*records, tree]
    current: list[Any] = [next(stream) for stream in streams]
    yield Joined(b"", tuple(current[:-1]), current[-1])
    current = [next(stream) for stream in streams]
    levels: list[tuple[Sequence[int], bytes]] = [(range(len(streams)), b"")]
    while levels:
        active, above = levels[-1]
        name, here = _find_first(current, active)
        if not here:
            levels.pop()
            _advance(streams, current, active if levels else ())
            continue
        found: list[Any] = [None] * len(streams)
        for number in here:
            found[number] = current[number]
        yield Joined(above + name, tuple(found[:-1]), found[-1])
        if below := [number for number in here if found[number].is_directory]:
            levels.append((below, above + name + b"/"))
        _advance(streams, current, here)


def _find_first(current: Sequence[Any], active: Sequence[int]) -> tuple[bytes, list[int]]:
    """Return the first name of the current items of some streams, and the streams that have it; none at their end."""
    first, here = b"", list[int]()
    for number in active:
        if (item := current[number]) is None:
            continue
        name = item.name
        if not here or name < first:
            first, here = name, [number]
        elif name == first:
            here.append(number)
    return first, here


def _advance(streams: Sequence[Iterator[Any]], current: list[Any], numbers: Sequence[int]) -> None:
    """Go to the next item of some of the streams."""
    for number in numbers:
        current[number] = next(streams[number])
