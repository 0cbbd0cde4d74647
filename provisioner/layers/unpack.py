"""From the layers of a source to a rootfs, within the space that there is."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from provisioner.errors import HINTS, MachineError, error_context, machine_errors
from provisioner.filesystem.removal import DIRECTORY, remove_tree
from provisioner.image.digest import verified_chunks
from provisioner.image.image import Image, Layer
from provisioner.layers.apply import Unpacker
from provisioner.layers.budget import Budget, too_large
from provisioner.layers.compression import inflate
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.reader import ExtractedEntry, ExtractedLayer, LayerReader, StreamedLayer, extract
from provisioner.layers.workers import WorkerKilled, Workers, may_fork
from provisioner.ownership.overrides import MetadataOverrides
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links, Substitute, Substitutes
from provisioner.rootfs.tree import Tree
from provisioner.sizes import size_text
from provisioner.sources import Source
from provisioner.store.download import Unverified
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

_AHEAD = 4
"""Pieces of an archive, half a MiB each, that wait between two stages."""
_PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_MOST_WORKERS = 4
_LARGE = 1 << 20
"""Bytes of a compressed layer that make it worth its way through another process."""


@dataclass(frozen=True)
class UnpackOptions:
    """How to unpack: who owns files, the most bytes (None: by the free space), what stands in for hard links."""

    ownership: Ownership
    max_size: int | None = None
    hardlinks: Substitute = "auto"


def unpack(
    image: Image, source: Source, rootfs: Path, scratch: Path, unpack_options: UnpackOptions, console: Console
) -> MetadataOverrides:
    """Make `rootfs` of all layers, each verified against both of its digests; what the disk doesn't say of its files.

    Directories get their times in the end, by `Tree.set_times`. `scratch` is a directory on the same file system that
    may be made, and filled. Raises ProvisionError, and leaves what it has made to whoever called.
    """
    try:
        return _unpack(image, source, rootfs, scratch, unpack_options, console)
    except (Unverified, WorkerKilled) as error:
        how = "each layer when it is verified" if isinstance(error, Unverified) else "in one process"
        console.step(f"{error.message}: once more, {how}")
        with machine_errors("empty the rootfs"):
            for directory in filter(Path.exists, (rootfs, scratch)):
                _remove(directory)
        return _unpack(image, source, rootfs, None, unpack_options, console)


def _unpack(
    image: Image, source: Source, rootfs: Path, scratch: Path | None, unpack_options: UnpackOptions, console: Console
) -> MetadataOverrides:
    """The same, in one process where there is no `scratch`."""
    with machine_errors("make the rootfs"):
        rootfs.mkdir(mode=0o755)
        rootfs.chmod(0o755)
    links = Links(unpack_options.hardlinks)
    budget = Budget(_max_size(rootfs, image, unpack_options.max_size), parts=1 + len(image.layers))
    preparation = _Preparation(image, scratch, unpack_options.ownership, budget)
    with (
        Tree(rootfs) as tree,
        preparation.workers() as workers,
        console.progress(sum(blob.size for blob in set(image.manifest.layers))) as progress,
        source.layers(image, progress.advance) as layers,
        closing(preparation.contents(layers, workers)) as contents,
    ):
        unpacker = Unpacker(tree, unpack_options.ownership, budget=budget, links=links)
        for number, (layer, content) in enumerate(contents, 1):
            what = f"layer {number} of {len(image.layers)}"
            progress.describe(f"unpack {what}, {size_text(layer.blob.size)}")
            with error_context(what):
                unpacker.apply_reader(content)
        unpacker.finish()
    if told := _told(links.made):
        console.step(told)
    return tree.overrides


@dataclass(frozen=True)
class _Preparation:
    """Which layers are prepared ahead of their turn, by processes of their own, and what all have to know for that."""

    image: Image
    scratch: Path | None
    ownership: Ownership
    budget: Budget

    @cached_property
    def ahead(self) -> Sequence[int]:
        """The numbers of these layers. The first one has its turn at once, and small ones aren't worth it."""
        if self.scratch is None or _PROCESSORS == 1 or not may_fork():
            return ()
        return [number for number, layer in enumerate(self.image.layers) if number and layer.blob.size >= _LARGE]

    def workers(self) -> Workers[list[ExtractedEntry]]:
        """The processes."""
        with machine_errors("make room for layers ahead of their turn"):
            for number in self.ahead:
                self._folder(number).mkdir(mode=0o700, parents=True)
        return Workers(min(len(self.ahead), _PROCESSORS, _MOST_WORKERS), self._prepare)

    def contents(
        self, layers: Iterable[tuple[Layer, Iterator[bytes]]], workers: Workers[list[ExtractedEntry]]
    ) -> Generator[tuple[Layer, LayerReader], None, None]:
        """The layers with what is in them."""
        blobs = list(layers)
        ahead = self.ahead if workers else ()
        workers.begin({number: blobs[number][1] for number in ahead})
        for number, (layer, blob) in enumerate(blobs):
            if number in ahead:
                with _opened(self._folder(number)) as folder:
                    yield layer, ExtractedLayer(workers.results(number), folder)
            else:
                with _archive(layer, blob) as archive:
                    yield layer, StreamedLayer(archive, self.ownership, self.budget)

    def _prepare(self, number: int, blob: Iterator[bytes]) -> Iterator[list[ExtractedEntry]]:
        with _archive(self.image.layers[number], blob) as archive, _opened(self._folder(number)) as folder:
            yield from extract(StreamedLayer(archive, self.ownership, self.budget.part(number)), folder)

    def _folder(self, number: int) -> Path:
        assert self.scratch
        return self.scratch / str(number)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    with machine_errors(f"open {printable(str(directory))}"):
        opened = os.open(directory, DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _archive(layer: Layer, blob: Iterator[bytes]) -> Iterator[Iterable[bytes]]:
    """The archive in a layer's blob while that arrives; inflating and hashing have a thread each.

    Blob and archive are read to their ends, where they prove to be what they should.
    """
    with (
        Prefetcher(inflate(blob, layer.blob.media_type), _AHEAD) as inflated,
        Prefetcher(verified_chunks(iter(inflated), layer.diff_id, None, "the archive"), _AHEAD) as archive,
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
        raise MachineError("no more files can be made here", HINTS[errno.ENOSPC])
    max_size = free * 9 // 10 if asked is None else asked
    compressed = sum(blob.size for blob in set(image.manifest.layers))
    if compressed > free:
        raise MachineError(
            f"the layers have {size_text(compressed)}, compressed, and {size_text(free)} are free", HINTS[errno.ENOSPC]
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


def _remove(directory: Path) -> None:
    """Take away what wrong bytes may have left."""
    with _opened(directory.parent) as parent:
        remove_tree(parent, os.fsencode(directory.name))
