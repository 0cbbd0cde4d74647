"""Unpacks the layers of an image to a rootfs, within the free space."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

from provisioner.archives.compression import unexpected_compression
from provisioner.container_files import ROOTFS
from provisioner.errors import error_context, machine_errors
from provisioner.filesystem.content import can_reflink
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import empty_directory
from provisioner.image.history import layer_commands
from provisioner.image.image import Layer
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.file_writer import FileWriter
from provisioner.layers.job import UnpackJob
from provisioner.layers.layer_archive import open_archive
from provisioner.layers.layer_tree import UnpackedLayer, unpack_layer, unpack_lowest_layer, unpack_lowest_layer_with
from provisioner.layers.merge import LayerMerger
from provisioner.layers.messages import clamped_times_text, layer_text, proot_links_text, substitutes_text
from provisioner.layers.reader import StreamedLayer
from provisioner.layers.rootfs_reader import is_converted, open_reader
from provisioner.layers.trash import emptying_in_background
from provisioner.layers.workers import WorkerKilled, Workers, may_fork
from provisioner.ownership.parts import RecordPart, RecordParts
from provisioner.ownership.record import write_part
from provisioner.rootfs.links import Links
from provisioner.rootfs.moving import CannotMove
from provisioner.rootfs.tree import Tree
from provisioner.sources import LayerBlob
from provisioner.store.download import Unverified

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors that this process may use."""
WORKER_LAYER_SIZE = 1 << 20
"""Compressed layers of at least so many bytes are unpacked by worker processes; smaller ones aren't worth it."""
_MAX_WORKERS = 4
_TRASH = "removed"


@contextmanager
def unpack(job: UnpackJob) -> Iterator[Tree]:
    """Make ROOTFS from all layers of an image, each verified against both of its digests.

    Returns a context that gives the open tree. The times of its directories are not set yet: call write_owners in it,
    after the last write, with the tree's `record_parts`.

    Raises ProvisionError, and leaves it to the caller to remove what was created.
    """
    try:
        tree = _try_to_unpack(job, job.scratch)
    except (Unverified, WorkerKilled, CannotMove) as error:
        how = "each layer after it is verified" if isinstance(error, Unverified) else "in a single process"
        job.console.step(f"{error.message}: unpacking again, {how}")
        job.discard()
        tree = _try_to_unpack(job, None)
        with tree:
            yield tree
    else:
        with tree, emptying_in_background(job.scratch, _TRASH):
            yield tree


def _try_to_unpack(job: UnpackJob, scratch: int | None) -> Tree:
    """Return the tree with all layers, which is still open. Without `scratch`, a single process unpacks them in order.

    Raises Unverified, WorkerKilled and CannotMove, after which another try without `scratch` may succeed, and other
    ProvisionErrors.
    """
    image, console = job.image, job.console
    links = Links(job.options.hardlinks)
    budget = Budget(job.max_size(), parts=1 + len(image.layers))
    unpacking = _Unpacking(job, scratch, budget, links, can_reflink(job.place))
    with ExitStack() as stack:
        tree = stack.enter_context(job.make_tree())
        with (
            unpacking.workers() as workers,
            console.transfer(image.download_size, budget.total) as transfer,
            job.source.layers(image, transfer) as blobs,
        ):
            applier = unpacking.run(tree, list(blobs), workers, transfer.describe)
        for text in (substitutes_text(links.substitutes), proot_links_text(links.substitutes)):
            if text:
                console.step(text)
        if applier.clamped_times:
            console.step(clamped_times_text(applier.clamped_times))
        stack.pop_all()  # the caller closes the tree
        return tree


@dataclass(frozen=True)
class _Unpacking:
    """One try to unpack the layers of an image: large ones in worker processes, each to a tree of its own."""

    job: UnpackJob
    scratch: int | None
    """The open directory for trees of single layers, None to use no workers."""
    budget: Budget
    links: Links
    hashes_all: bool
    """Whether even the largest files get digests: a second container may be reflinked from them (see reflinks/)."""

    @cached_property
    def worker_layers(self) -> Sequence[int]:
        """The numbers of the layers that workers unpack."""
        if self.scratch is None or PROCESSORS == 1 or not may_fork() or not self.budget.is_shared:
            return ()
        return [number for number, layer in enumerate(self.job.image.layers) if _may_be_read_by_worker(layer)]

    def workers(self) -> Workers[UnpackedLayer]:
        """Create the directories to unpack to, and return the workers, which are forked on entering."""
        with machine_errors("make a directory for a layer"):
            if self.scratch is not None:
                for name in (_TRASH, *map(str, self.worker_layers)):
                    os.mkdir(name, 0o700, dir_fd=self.scratch)
        return Workers(min(len(self.worker_layers), PROCESSORS, _MAX_WORKERS), self._unpack_apart)

    def run(
        self,
        tree: Tree,
        blobs: Sequence[tuple[Layer, LayerBlob]],
        workers: Workers[UnpackedLayer],
        describe: Callable[[str], None],
    ) -> LayerApplier:
        """Unpack all layers to `tree`, the lowest first, and return the applier, which has counted clamped times.

        `describe` is called with a text about each layer before it is unpacked.
        """
        commands = layer_commands(self.job.image.config_bytes, len(blobs))
        worker_layers = self.worker_layers if workers else ()
        workers.begin({number: blobs[number][1] for number in worker_layers})
        applier = LayerApplier(tree, self.job.ownership, budget=self.budget, links=self.links)
        merger = LayerMerger(tree, self.job.ownership, self.links, self.budget)
        if self.scratch is not None and worker_layers:
            tree.record_parts = RecordParts(self.scratch)
        with self._open_trash() as tree.trash:
            for number, (layer, blob) in enumerate(blobs):
                describe(f"layer {number + 1} of {len(blobs)}")
                with error_context(f"layer {number + 1} of {len(blobs)}"):
                    if number in worker_layers and (unpacked := self._merge(number, workers, merger)):
                        applier.note_merged_layer(unpacked.clamped_times)
                    else:
                        with open_archive(layer, blob.chunks()) as archive:
                            applier.apply_reader(self._open_reader(layer, archive, self.budget))
                    self._report_compression(number, blob)
                self.job.console.step(layer_text(number, len(blobs), layer, commands[number]))
            tree.trash = None
        applier.finish()
        return applier

    def _merge(self, number: int, workers: Workers[UnpackedLayer], merger: LayerMerger) -> UnpackedLayer | None:
        """Merge a layer that a worker has unpacked. Returns None where it has to be applied in order."""
        unpacked = next(iter(list(workers.results(number))), None)
        if number == 0 and unpacked is not None:
            merger.adopt(unpacked)
            return unpacked
        with self._open_folder(number) as folder:
            if unpacked is not None and merger.merge(folder, unpacked):
                return unpacked
            with machine_errors("remove the tree of a layer"):
                empty_directory(folder)
        self.budget.part(number + 1).reset()
        return None

    def _unpack_apart(self, number: int, blob: Iterator[bytes]) -> Iterator[UnpackedLayer]:
        """Unpack a layer to a tree of its own, the lowest to ROOTFS; this runs in a worker process.

        Yields what has to be known of the layer to merge it; nothing where it has to be applied in order.
        """
        budget, links, ownership = self.budget.part(number + 1), self.links.empty(), self.job.ownership
        layer = self.job.image.layers[number]
        with (
            self._open_folder(number) as folder,
            self._file_writer(folder) as writer,
            open_archive(layer, blob) as archive,
        ):
            reader = self._open_reader(layer, archive, budget)
            unpack = unpack_layer if number else unpack_lowest_layer
            if writer is not None:
                unpack = partial(unpack_lowest_layer_with, writer)
            if unpacked := unpack(reader, folder, ownership, budget, links):
                yield replace(unpacked, record_parts=self._write_record(number, folder, unpacked, writer))

    def _write_record(
        self, number: int, folder: int, layer: UnpackedLayer, writer: FileWriter | None
    ) -> Sequence[RecordPart]:
        """Write the lines of a layer's files, with a second process if there is a `writer`."""
        assert self.scratch is not None
        name = b"record-%d" % number
        if writer is not None:
            return writer.write_record(self.scratch, name, layer.overrides)
        with machine_errors("write the ownership record"):
            return [write_part(self.scratch, name, folder, layer.overrides, self.job.ownership)]

    def _open_reader(self, layer: Layer, archive: Iterable[bytes], budget: Budget) -> StreamedLayer:
        return open_reader(layer, archive, self.job.ownership, budget, hashes_all=self.hashes_all)

    @contextmanager
    def _file_writer(self, folder: int) -> Iterator[FileWriter | None]:
        """Return a context that gives a second process, if the lowest layer is the only one that is worth a worker."""
        with ExitStack() as stack:
            writer: FileWriter | None = None
            if self.worker_layers == [0]:
                with suppress(OSError):
                    writer = stack.enter_context(FileWriter(folder, self.job.ownership))
            yield writer

    def _report_compression(self, number: int, blob: LayerBlob) -> None:
        """Write a detail where a layer isn't compressed as its media type says."""
        image = self.job.image
        if image.rootfs is not None:
            return
        if text := unexpected_compression(next(blob.chunks(), b""), image.layers[number].blob.media_type):
            self.job.console.detail(f"layer {number + 1} of {len(image.layers)} is {text}")

    @contextmanager
    def _open_trash(self) -> Iterator[int | None]:
        """Return a context that gives the open directory for what is removed."""
        if self.scratch is None:
            yield None
            return
        with machine_errors("open a directory"):
            opened = os.open(_TRASH, DIRECTORY, dir_fd=self.scratch)
        with closing_descriptor(opened):
            yield opened

    @contextmanager
    def _open_folder(self, number: int) -> Iterator[int]:
        """Return a context that gives the open directory that a layer is unpacked to."""
        assert self.scratch is not None
        with machine_errors("open the directory of a layer"):
            if number:
                opened = os.open(str(number), DIRECTORY, dir_fd=self.scratch)
            else:
                opened = os.open(ROOTFS, DIRECTORY, dir_fd=self.job.place)
        with closing_descriptor(opened):
            yield opened


def _may_be_read_by_worker(layer: Layer) -> bool:
    """Return whether a worker process can read a layer, and whether that is large enough to be worth it."""
    return layer.blob.size >= WORKER_LAYER_SIZE and not is_converted(layer)
