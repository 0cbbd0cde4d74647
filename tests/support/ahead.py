"""A layer that is applied as if another process had prepared it: all of its files are written before its turn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from provisioner.errors import ProvisionError
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from provisioner.layers.apply import Unpacker
from provisioner.layers.budget import Budget
from provisioner.layers.reader import ExtractedEntry, ExtractedLayer, StreamedLayer, extract
from provisioner.ownership.policy import Ownership


def apply_extracted(
    unpacker: Unpacker, chunks: Iterable[bytes], ownership: Ownership, budget: Budget, folder: Path
) -> None:
    """Apply the layer in `chunks`, whose files are in `folder` meanwhile. Raises what Unpacker.apply does."""
    made: list[list[ExtractedEntry]] = []
    failure: ProvisionError | None = None
    folder.mkdir()
    opened = os.open(folder, DIRECTORY)
    try:
        try:
            for some in extract(StreamedLayer(chunks, ownership, budget), opened):
                made.append(some)  # noqa: PERF402  what came before an error counts
        except ProvisionError as error:
            failure = error
        unpacker.apply_reader(ExtractedLayer(_replayed(made, failure), opened))
    finally:
        os.close(opened)
        parent = os.open(folder.parent, DIRECTORY)
        remove_tree(parent, os.fsencode(folder.name))
        os.close(parent)


def _replayed(made: list[list[ExtractedEntry]], failure: ProvisionError | None) -> Iterator[list[ExtractedEntry]]:
    yield from made
    if failure:
        raise failure
