"""A layer that is applied as if another process had prepared it: all of its files are written before its turn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from provisioner.errors import ProvisionError
from provisioner.rootfs.budget import Budget
from provisioner.rootfs.contents import Made, Prepared, Streamed, prepare
from provisioner.rootfs.layer import Unpacker
from provisioner.rootfs.ownership import Ownership
from provisioner.rootfs.removal import DIRECTORY, remove_tree


def apply_ahead(
    unpacker: Unpacker, chunks: Iterable[bytes], ownership: Ownership, budget: Budget, folder: Path
) -> None:
    """Apply the layer in `chunks`, whose files are in `folder` meanwhile. Raises what Unpacker.apply does."""
    made: list[list[Made]] = []
    failure: ProvisionError | None = None
    folder.mkdir()
    opened = os.open(folder, DIRECTORY)
    try:
        try:
            for some in prepare(Streamed(chunks, ownership, budget), opened):
                made.append(some)  # noqa: PERF402  what came before an error counts
        except ProvisionError as error:
            failure = error
        unpacker.apply_contents(Prepared(_replayed(made, failure), opened))
    finally:
        os.close(opened)
        parent = os.open(folder.parent, DIRECTORY)
        remove_tree(parent, os.fsencode(folder.name))
        os.close(parent)


def _replayed(made: list[list[Made]], failure: ProvisionError | None) -> Iterator[list[Made]]:
    yield from made
    if failure:
        raise failure
