"""A tree beside its ownership record: each file with what the record says of it, also where it says nothing."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.filesystem.walk import WalkedFile
from provisioner.ownership.mtree import MtreeEntry

Pair = tuple[WalkedFile, MtreeEntry | None]


def pair_files(record: Iterator[MtreeEntry | None], tree: Iterator[WalkedFile | None]) -> Iterator[Pair | None]:
    """Yield the items of `walk`, each file with the entry at its path, whatever its type; None where there is none.

    Both are in the order of `walk`, and None ends each directory. Raises what the two raise.
    """
    entry = next(record, None)
    are_known: list[bool] = []
    """Whether the record has the directory, for those that the walk is in."""
    for file in tree:
        if file is None:
            yield None
            if are_known.pop():
                while entry is not None:
                    entry = _next_sibling(record, entry)
                entry = next(record, None) if are_known else None
            continue
        if are_known and not are_known[-1]:
            found = None
        else:
            while entry is not None and entry.name < file.name:
                entry = _next_sibling(record, entry)
            found = entry if entry is not None and entry.name == file.name else None
            if found is not None:
                enters = found.is_directory and file.is_directory
                entry = next(record, None) if enters else _next_sibling(record, found)
        yield file, found
        if file.is_directory:
            are_known.append(found is not None and found.is_directory)


def _next_sibling(record: Iterator[MtreeEntry | None], entry: MtreeEntry) -> MtreeEntry | None:
    """Skip the content of an entry, if that is a directory, and return the item behind it."""
    depth = int(entry.is_directory)
    while depth:
        item = next(record)
        depth += -1 if item is None else item.is_directory
    return next(record, None)
