"""Unpacks the layers of an image to a rootfs, within the free space."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

from provisioner.archives.compression import decompress, unexpected_compression
from provisioner.container_files import ROOTFS
from provisioner.errors import error_context, machine_errors, no_room
from provisioner.filesystem.content import can_reflink
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import empty_directory
from provisioner.image.digest import verified_chunks
from provisioner.image.history import layer_commands
from provisioner.image.image import Layer
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget, too_large
from provisioner.layers.file_writer import FileWriter
from provisioner.layers.job import UnpackJob
from provisioner.layers.layer_tree import UnpackedLayer, unpack_layer, unpack_lowest_layer, unpack_lowest_layer_with
from provisioner.layers.merge import LayerMerger
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.reader import StreamedLayer
from provisioner.layers.rootfs_reader import is_converted, open_reader
from provisioner.layers.trash import emptied_meanwhile
from provisioner.layers.workers import WorkerKilled, Workers, may_fork
from provisioner.ownership.parts import RecordPart, RecordParts
from provisioner.ownership.record import write_part
from provisioner.rootfs.links import Links, Substitutes
from provisioner.rootfs.moving import CannotMove
from provisioner.rootfs.tree import Tree
from provisioner.sizes import counted, size_text
from provisioner.sources import LayerBlob
from provisioner.store.download import Unverified

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors that this process may use."""
WORKER_LAYER_SIZE = 1 << 20
"""Compressed layers of at least so many bytes are unpacked by worker processes; smaller ones aren't worth it."""
_MAX_WORKERS = 4
_DEPTH = 4
"""Pieces of an archive, half a MiB each, that wait between two stages."""
_LONGEST_COMMAND = 60
_TRASH = "removed"


@contextmanager
def unpack(job: UnpackJob) -> Iterator[Tree]:
    """Make ROOTFS from all layers of an image, each verified against both of its digests.

    Returns a context that gives the open tree. The times of its directories are not set yet: call write_owners in it,
    after the last write, with the tree's `record_parts`.

    Raises ProvisionError, and leaves it to the caller to remove what was created.
    """
    try:
        tree = _unpack(job, job.scratch)
    except (Unverified, WorkerKilled, CannotMove) as error:
        how = "each layer after it is verified" if isinstance(error, Unverified) else "in a single process"
        job.console.step(f"{error.message}: unpacking again, {how}")
        job.discard()
        tree = _unpack(job, None)
        with tree:
            yield tree
    else:
        with tree, emptied_meanwhile(job.scratch, _TRASH):
            yield tree


def _unpack(job: UnpackJob, scratch: int | None) -> Tree:
    """Try to unpack once, in a single process where `scratch` is None."""
    image, console = job.image, job.console
    links = Links(job.options.hardlinks)
    budget = Budget(_max_size(job), parts=1 + len(image.layers))
    unpacking = _Unpacking(job, scratch, budget, links, can_reflink(job.place))
    with ExitStack() as stack:
        tree = stack.enter_context(job.make_tree())
        commands = layer_commands(image.config_bytes, len(image.layers))
        with (
            unpacking.workers() as workers,
            console.transfer(image.download_size, budget.total) as transfer,
            job.source.layers(image, transfer) as blobs,
        ):

            def finish(number: int, layer: Layer) -> None:
                console.step(_layer_text(number, len(image.layers), layer, commands[number]))

            applier = unpacking.run(tree, list(blobs), workers, transfer.describe, finish)
        for text in (substitutes_text(links.substitutes), _proot_links_text(links.substitutes)):
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
        return Workers(min(len(self.worker_layers), PROCESSORS, _MAX_WORKERS), self._unpack)

    def run(
        self,
        tree: Tree,
        blobs: Sequence[tuple[Layer, LayerBlob]],
        workers: Workers[UnpackedLayer],
        describe: Callable[[str], None],
        finish: Callable[[int, Layer], None],
    ) -> LayerApplier:
        """Unpack all layers to `tree`, the lowest first, and return the applier that knows what was odd of them.

        `describe` is called with what is being done, and `finish` with each layer when it is done.
        """
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
                        applier.follow_merge(unpacked.clamped_times)
                    else:
                        with open_archive(layer, blob.chunks()) as archive:
                            applier.apply_reader(self._open_reader(layer, archive, self.budget))
                    self._report(number, blob)
                finish(number, layer)
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

    def _unpack(self, number: int, blob: Iterator[bytes]) -> Iterator[UnpackedLayer]:
        """Unpack a layer to a tree of its own, the lowest to ROOTFS; this runs in a worker process.

        Yields nothing where the layer has to be applied in order.
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
        """Fork a second process for the only layer that is worth a worker, if that is the lowest one."""
        with ExitStack() as stack:
            writer: FileWriter | None = None
            if self.worker_layers == [0]:
                with suppress(OSError):
                    writer = stack.enter_context(FileWriter(folder, self.job.ownership))
            yield writer

    def _report(self, number: int, blob: LayerBlob) -> None:
        """Say it where a layer isn't compressed as its media type says."""
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
        """Open the directory that a layer is unpacked to."""
        assert self.scratch is not None
        with machine_errors("open the directory of a layer"):
            if number:
                opened = os.open(str(number), DIRECTORY, dir_fd=self.scratch)
            else:
                opened = os.open(ROOTFS, DIRECTORY, dir_fd=self.job.place)
        with closing_descriptor(opened):
            yield opened


def _may_be_read_by_worker(layer: Layer) -> bool:
    """Return whether a worker process can read a layer, and whether it is worth it."""
    return layer.blob.size >= WORKER_LAYER_SIZE and not is_converted(layer)


@contextmanager
def open_archive(layer: Layer, blob: Iterator[bytes]) -> Iterator[Iterable[bytes]]:
    """Yield the chunks of the archive in a layer's blob; decompressing and hashing run in a thread each.

    The chunks are verified when they have been read to their end, by the diff_id, or without one by the digest of the
    blob. Reading them raises MalformedImage, and what iterating over `blob` raises.
    """
    with ExitStack() as stack:
        if layer.diff_id is None and not is_converted(layer):
            blob = verified_chunks(blob, layer.blob.digest, layer.blob.size, "the file")
        decompressed = stack.enter_context(Prefetcher(decompress(blob, layer.blob.media_type), _DEPTH))
        if layer.diff_id is None:
            yield decompressed
            return
        archive = verified_chunks(iter(decompressed), layer.diff_id, None, "the archive")
        yield stack.enter_context(Prefetcher(archive, _DEPTH))


def _max_size(job: UnpackJob) -> int:
    """Return the most bytes that the image may take: what was asked for, or nine tenths of the free space.

    Raises MachineError where not even the compressed layers fit.
    """
    image, free, requested = job.image, job.free_space(), job.options.max_size
    max_size = free.default_limit if requested is None else requested
    if image.rootfs and image.rootfs.unpacked_size > max_size:
        raise too_large(max_size)
    compressed = image.download_size
    if compressed > free.size:
        raise no_room("the compressed layers", compressed, free.size)
    if compressed > max_size:
        raise too_large(max_size)
    return max_size


def _layer_text(number: int, count: int, layer: Layer, command: str) -> str:
    """Return one line about a layer that has been unpacked: its size, and what made it, shortened."""
    what = f", {textwrap.shorten(command, _LONGEST_COMMAND, placeholder=' …')}" if command else ""
    return f"layer {number + 1} of {count}: {size_text(layer.blob.size)}{what}"


def clamped_times_text(count: int) -> str:
    """Return one line about files whose times can't be kept."""
    return f"{counted(count, 'file has a time', 'files have times')} that can't be kept here: the nearest one is set"


def substitutes_text(substitutes: Substitutes) -> str:
    """Return one line about what replaces hard links; empty where none was refused."""
    copies, reflinks, symlinks = substitutes.copies, substitutes.reflinks, substitutes.symlinks
    parts = []
    if copies:
        take = counted(copies, "copy, which takes", "copies, which take")
        parts.append(f"{take} {size_text(substitutes.copied_bytes)} more")
    if reflinks:
        parts.append(f"{counted(reflinks, 'reflink, which takes', 'reflinks, which take')} no space")
    if symlinks:
        parts.append(counted(symlinks, "symlink"))
    hint = "; --hardlinks symlink saves that" if copies and not symlinks else ""
    return f"hard links are refused here: {', and '.join(parts)} in their place{hint}" if parts else ""


def _proot_links_text(substitutes: Substitutes) -> str:
    """Return one line about proot's symlinks in place of hard links; empty where there were none."""
    texts = []
    if resolved := substitutes.resolved_links:
        texts.append(f"restored {counted(resolved, 'hard link')} that proot had replaced")
    if lost := substitutes.lost_links:
        leads = counted(lost, "link of proot leads", "links of proot lead")
        texts.append(f"{leads} to nothing: the archive lacks the content")
    return "; ".join(texts)
