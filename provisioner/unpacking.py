"""From the layers of a source to a rootfs, within the space that there is."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioner.blobs import Unverified
from provisioner.console import Console, size_text
from provisioner.digest import verified_chunks
from provisioner.errors import MENDS, MachineError, doing, machine_errors
from provisioner.image import Image, Layer
from provisioner.rootfs.compression import inflate
from provisioner.rootfs.layer import Unpacker, too_large
from provisioner.rootfs.links import Links, Substitute, Substitutes
from provisioner.rootfs.notes import Notes
from provisioner.rootfs.ownership import Ownership
from provisioner.rootfs.pipeline import Ahead
from provisioner.rootfs.removal import DIRECTORY, remove_tree
from provisioner.rootfs.tree import Tree
from provisioner.sources import Source

_AHEAD = 4
"""Pieces of an archive, half a MiB each, that wait between two stages."""
_LAYERS_AHEAD = min(2, (os.cpu_count() or 1) - 1)
"""Layers that are inflated beside the one that is written."""


@dataclass(frozen=True)
class Manner:
    """How to unpack: who owns files, the most bytes (None: by the free space), what stands in for hard links."""

    ownership: Ownership
    max_size: int | None = None
    hardlinks: Substitute = "auto"


def unpack(image: Image, source: Source, rootfs: Path, manner: Manner, console: Console) -> Notes:
    """Make `rootfs` of all layers, each verified against both of its digests; what the disk doesn't say of its files.

    Directories get their times in the end, by `Tree.set_times`. Raises ProvisionError, and leaves what it has made to
    whoever called.
    """
    try:
        return _unpack(image, source, rootfs, manner, console)
    except Unverified as error:
        console.step(f"{error.message}: once more, each layer when it is verified")
        with machine_errors("empty the rootfs"):
            _remove(rootfs)
        return _unpack(image, source, rootfs, manner, console)


def _unpack(image: Image, source: Source, rootfs: Path, manner: Manner, console: Console) -> Notes:
    with machine_errors("make the rootfs"):
        rootfs.mkdir(mode=0o755)
        rootfs.chmod(0o755)
    links = Links(manner.hardlinks)
    max_size = _max_size(rootfs, image, manner.max_size)
    with (
        Tree(rootfs) as tree,
        console.progress(sum(blob.size for blob in set(image.manifest.layers))) as progress,
        source.layers(image, progress.advance) as layers,
        closing(_side_by_side(layers)) as archives,
    ):
        unpacker = Unpacker(tree, manner.ownership, max_size=max_size, links=links)
        for number, (layer, archive) in enumerate(archives, 1):
            what = f"layer {number} of {len(image.layers)}"
            progress.describe(f"unpack {what}, {size_text(layer.blob.size)}")
            with doing(what):
                unpacker.apply(archive)
        unpacker.finish()
    if told := _told(links.made):
        console.step(told)
    return tree.notes


def _side_by_side(
    layers: Iterable[tuple[Layer, Iterator[bytes]]],
) -> Generator[tuple[Layer, Iterable[bytes]], None, None]:
    """The layers with their archives. The next ones are inflated beside the first, each as far as its buffers go."""
    with ExitStack() as stack:
        waiting: deque[tuple[Layer, Iterable[bytes]]] = deque()
        for layer, blob in layers:
            waiting.append((layer, stack.enter_context(_archive(layer, blob))))
            if len(waiting) > _LAYERS_AHEAD:
                yield waiting.popleft()
        yield from waiting


@contextmanager
def _archive(layer: Layer, blob: Iterator[bytes]) -> Iterator[Iterable[bytes]]:
    """The archive in a layer's blob while that arrives; inflating and hashing have a thread each.

    Blob and archive are read to their ends, where they prove to be what they should.
    """
    with (
        Ahead(inflate(blob, layer.blob.media_type), _AHEAD) as inflated,
        Ahead(verified_chunks(iter(inflated), layer.diff_id, None, "the archive"), _AHEAD) as archive,
    ):
        yield archive


def _max_size(rootfs: Path, image: Image, asked: int | None) -> int:
    """The most that the image may take: what was asked for, else nine tenths of the free space.

    Raises MachineError where not even the layers as they are compressed have room.
    """
    with machine_errors("look at the free space"):
        state = os.statvfs(rootfs)
    free = state.f_bavail * state.f_frsize if state.f_blocks else 2**63 - 1  # some tell nothing
    if state.f_files and not state.f_favail:
        raise MachineError("no more files can be made here", MENDS[errno.ENOSPC])
    max_size = free * 9 // 10 if asked is None else asked
    compressed = sum(blob.size for blob in set(image.manifest.layers))
    if compressed > free:
        raise MachineError(
            f"the layers have {size_text(compressed)}, compressed, and {size_text(free)} are free", MENDS[errno.ENOSPC]
        )
    if compressed > max_size:
        raise too_large(max_size)
    return max_size


def _told(made: Substitutes) -> str:
    """One line about what stands in for hard links; empty where all of them are real."""
    parts = [f"{made.copies} copies, which take {size_text(made.copied)} more"] if made.copies else []
    parts += [f"{made.reflinks} reflinks, which take no space"] if made.reflinks else []
    parts += [f"{made.symlinks} symlinks"] if made.symlinks else []
    hint = "; --hardlinks symlink saves that" if made.copies and not made.symlinks else ""
    return f"hard links are refused here: {', and '.join(parts)} stand in for them{hint}" if parts else ""


def _remove(rootfs: Path) -> None:
    """Take away what wrong bytes may have left."""
    parent = os.open(rootfs.parent, DIRECTORY)
    try:
        remove_tree(parent, os.fsencode(rootfs.name))
    finally:
        os.close(parent)
