"""Goes through ownership records and the tree on the disk at the same time, path by path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

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


_Pair = tuple[bytes, MtreeEntry | None, WalkedFile | None]


def join_one(record: Iterator[MtreeEntry | None], tree: Iterator[WalkedFile | None]) -> Iterator[_Pair]:
    """Yield what `join` yields for a single record, in half of the time."""
    yield b"", next(record), next(tree)
    entry, file, above = next(record), next(tree), b""
    levels: list[bytes] = []
    """The paths of the directories above, of those that both have, each with a slash behind it."""
    while True:
        if file is None:
            if entry is None:
                if not levels:
                    return
                above = levels.pop()
                entry, file = next(record), next(tree)
                continue
            yield from _only_in_record(record, entry, above)
            entry = next(record)
        elif entry is None or file.name < entry.name:
            yield from _only_in_tree(tree, file, above)
            file = next(tree)
        elif entry.name < file.name:
            yield from _only_in_record(record, entry, above)
            entry = next(record)
        else:
            yield above + entry.name, entry, file
            was_directory, is_directory = entry.is_directory, file.is_directory
            if was_directory and is_directory:
                levels.append(above)
                above += entry.name + b"/"
            elif was_directory or is_directory:
                yield from _below_one(record, tree, entry, file, above + entry.name + b"/")
            entry, file = next(record), next(tree)


def _only_in_record(record: Iterator[MtreeEntry | None], entry: MtreeEntry, above: bytes) -> Iterator[_Pair]:
    """Yield an entry, and those below it if it is a directory."""
    yield above + entry.name, entry, None
    for path, below in _below(record, entry, above + entry.name + b"/"):
        yield path, below, None


def _only_in_tree(tree: Iterator[WalkedFile | None], file: WalkedFile, above: bytes) -> Iterator[_Pair]:
    """Yield a file, and those below it if it is a directory."""
    yield above + file.name, None, file
    for path, below in _below(tree, file, above + file.name + b"/"):
        yield path, None, below


def _below_one(
    record: Iterator[MtreeEntry | None],
    tree: Iterator[WalkedFile | None],
    entry: MtreeEntry,
    file: WalkedFile,
    above: bytes,
) -> Iterator[_Pair]:
    """Yield what is below a path that is a directory on one side at most."""
    for path, below in _below(record, entry, above):
        yield path, below, None
    for path, found in _below(tree, file, above):
        yield path, None, found


_Item = TypeVar("_Item", MtreeEntry, WalkedFile)


def _below(items: Iterator[_Item | None], top: _Item, above: bytes) -> Iterator[tuple[bytes, _Item]]:
    """Yield what is below the item `top`, with the paths; `above` is its path with a slash."""
    levels = [above] if top.is_directory else []
    while levels:
        item = next(items)
        if item is None:
            levels.pop()
            continue
        path = levels[-1] + item.name
        yield path, item
        if item.is_directory:
            levels.append(path + b"/")


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
