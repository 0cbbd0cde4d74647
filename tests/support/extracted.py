"""Applies a layer as if a worker process had extracted it: all of its files are written before its first entry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from provisioner.errors import ProvisionError
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.reader import ExtractedEntry, ExtractedLayer, StreamedLayer, extract
from provisioner.ownership.policy import Ownership


def apply_extracted(
    applier: LayerApplier, chunks: Iterable[bytes], ownership: Ownership, budget: Budget, folder: Path
) -> None:
    """Extract the layer in `chunks` to `folder`, apply it and remove `folder`. Raises what LayerApplier.apply does."""
    batches: list[list[ExtractedEntry]] = []
    failure: ProvisionError | None = None
    folder.mkdir()
    opened = os.open(folder, DIRECTORY)
    try:
        try:
            for batch in extract(StreamedLayer(chunks, ownership, budget), opened):
                batches.append(batch)  # noqa: PERF402  those before an error count
        except ProvisionError as error:
            failure = error
        applier.apply_reader(ExtractedLayer(_replayed(batches, failure), opened))
    finally:
        os.close(opened)
        parent = os.open(folder.parent, DIRECTORY)
        remove_tree(parent, os.fsencode(folder.name))
        os.close(parent)


def _replayed(batches: list[list[ExtractedEntry]], failure: ProvisionError | None) -> Iterator[list[ExtractedEntry]]:
    yield from batches
    if failure:
        raise failure
