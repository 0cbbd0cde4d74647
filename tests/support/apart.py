"""Applies layers as if each was unpacked by a process of its own: to a tree of its own, which is then merged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import empty_directory, remove_tree
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.file_writer import FileWriter
from provisioner.layers.layer_tree import (
    UnpackedLayer,
    unpack_layer,
    unpack_lowest_layer,
    unpack_lowest_layer_with,
)
from provisioner.layers.merge import LayerMerger
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership.parts import RecordParts
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_part
from provisioner.rootfs.links import Links, Substitute
from provisioner.rootfs.tree import Tree


def apply_apart(
    tree: Tree,
    layers: Iterable[Callable[[], Iterable[bytes]]],
    ownership: Ownership,
    budget: Budget,
    scratch: Path,
    substitute: Substitute = "auto",
    links: Links | None = None,
    *,
    is_shared: bool = False,
) -> list[bool]:
    """Apply layers to `tree`. Each is a function that returns the chunks of its archive from the beginning.

    `links` has `substitute` as well, and counts what stands in for hard links. `is_shared` is whether a second process
    writes files of the lowest layer.

    `budget` has a part for each layer. `scratch` is a directory that doesn't exist. Returns for each layer whether it
    was merged, and not applied in order.
    """
    links = links or Links(substitute)
    applier = LayerApplier(tree, ownership, budget=budget, links=links)
    merger = LayerMerger(tree, ownership, links, budget)
    merged: list[bool] = []
    with _folders(scratch) as (trash, folder):
        tree.trash, tree.record_parts = trash, RecordParts(folder)
        for chunks in layers:
            number, done = len(merged), False
            part = budget.part(number)
            if not number:
                layer = StreamedLayer(chunks(), ownership, part)
                unpack = _unpack_shared if is_shared else _unpack_lowest
                if lowest := unpack(layer, folder, tree._root, ownership, part, Links(substitute)):
                    merger.adopt(lowest)
                    done = True
                else:
                    empty_directory(tree._root)
                    part.reset()
            else:
                os.mkdir("layer", 0o700, dir_fd=folder)
                root = os.open("layer", DIRECTORY, dir_fd=folder)
                try:
                    layer = StreamedLayer(chunks(), ownership, part)
                    unpacked = unpack_layer(layer, root, ownership, part, Links(substitute))
                    if unpacked is not None:
                        unpacked = _with_record(unpacked, number, folder, root, ownership)
                        done = merger.merge(root, unpacked)
                finally:
                    os.close(root)
                    remove_tree(folder, b"layer")
                if not done:
                    part.reset()
            if done:
                applier.note_merged_layer(0)
            else:
                applier.apply(chunks())
            merged.append(done)
        tree.trash = None
    applier.finish()
    return merged


def _unpack_lowest(
    reader: StreamedLayer, folder: int, root: int, ownership: Ownership, budget: Budget, links: Links
) -> UnpackedLayer | None:
    return _with_record(unpack_lowest_layer(reader, root, ownership, budget, links), 0, folder, root, ownership)


def _unpack_shared(
    reader: StreamedLayer, folder: int, root: int, ownership: Ownership, budget: Budget, links: Links
) -> UnpackedLayer | None:
    with FileWriter(root, ownership) as writer:
        if layer := unpack_lowest_layer_with(writer, reader, root, ownership, budget, links):
            return replace(layer, record_parts=writer.write_record(folder, b"record-0", layer.overrides))
        return None


def _with_record(layer: UnpackedLayer, number: int, folder: int, root: int, ownership: Ownership) -> UnpackedLayer:
    part = write_part(folder, b"record-%d" % number, root, layer.overrides, ownership)
    return replace(layer, record_parts=[part])


@contextmanager
def _folders(scratch: Path) -> Iterator[tuple[int, int]]:
    scratch.mkdir()
    (scratch / "trash").mkdir()
    folder = os.open(scratch, DIRECTORY)
    trash = os.open(scratch / "trash", DIRECTORY)
    parent = os.open(scratch.parent, DIRECTORY)
    try:
        yield trash, folder
    finally:
        os.close(trash)
        os.close(folder)
        remove_tree(parent, os.fsencode(scratch.name))
        os.close(parent)
