"""Makes the tree of an image from a directory of the same image, or unpacks its layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from provisioner.container_files import OWNERSHIP_RECORD
from provisioner.errors import error_context, machine_errors
from provisioner.filesystem.atomic import make_directory
from provisioner.filesystem.content import can_reflink, try_reflink
from provisioner.filesystem.descriptors import ANY_FILE, NEW_READABLE_FILE, closing_descriptor
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.layers.job import UnpackJob
from provisioner.layers.layer_archive import open_archive
from provisioner.layers.rootfs_reader import open_reader
from provisioner.layers.unpack import unpack
from provisioner.ownership.record import content_of
from provisioner.reflinks.file_store import CannotReflink, FileStore
from provisioner.reflinks.recorded_layer import RecordedLayer
from provisioner.reflinks.siblings import Sibling
from provisioner.rootfs.links import Links
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.store.download import Unverified

_COPY = "record"


@contextmanager
def unpack_or_reflink(job: UnpackJob, siblings: Iterable[Sibling]) -> Iterator[Tree]:
    """Do what `unpack` does, with the files of the first of `siblings` that can be used; else unpack the layers.

    Raises ProvisionError, and leaves it to the caller to remove what was created.
    """
    for sibling in siblings if can_reflink(job.place) else ():
        try:
            tree = _reflink(job, sibling)
        except (CannotReflink, Unverified) as error:
            job.console.detail(f"{sibling.shown} is of the same image, and is not used: {error}")
            job.discard()
            continue
        with tree:
            yield tree
        return
    with unpack(job) as tree:
        yield tree


def _reflink(job: UnpackJob, sibling: Sibling) -> Tree:
    """Make the tree from a sibling. Raises CannotReflink, Unverified and ProvisionError."""
    with ExitStack() as stack:
        tree = stack.enter_context(job.make_tree())
        with machine_errors("make a directory for contents"):
            folder = make_directory(job.scratch, "contents", 0o700)
        with closing_descriptor(folder), _copied_record(sibling, job.scratch) as record:
            store = FileStore(folder)
            with machine_errors(f"reflink files of {sibling.shown}"):
                store.collect(record, sibling)
            fetched = store.fetched
            if fetched:
                _fetch(store, job)
            record.seek(0)
            budget, max_size = _budget(job), job.options.max_size
            applier = LayerApplier(tree, job.ownership, budget=budget, links=Links(job.options.hardlinks))
            applier.apply_reader(
                RecordedLayer(
                    record,
                    folder,
                    store.first_names,
                    sibling.generated,
                    job.ownership,
                    budget,
                    counts_content=max_size is not None,
                )
            )
            applier.finish()
        if not sibling.gets_same_fixups(tree):
            raise CannotReflink("it was made with another profile")
        more = f", {fetched} that are not as the image has them there from its layers" if fetched else ""
        job.console.step(f"{store.files} files from {sibling.shown} (reflinked){more}")
        stack.pop_all()  # the caller closes the tree
        return tree


@contextmanager
def _copied_record(sibling: Sibling, scratch: int) -> Iterator[BinaryIO]:
    """Give a clone of the sibling's ownership record, which nothing else can change, when it has the right digest."""
    try:
        original = os.open(OWNERSHIP_RECORD, ANY_FILE, dir_fd=sibling.folder)
    except OSError as error:
        raise CannotReflink(f"its record can't be read: {error.strerror}") from error
    with (
        closing_descriptor(original),
        machine_errors("read an ownership record"),
        open(os.open(_COPY, NEW_READABLE_FILE, 0o600, dir_fd=scratch), "rb") as record,
    ):
        if not try_reflink(original, record.fileno()):
            raise CannotReflink("its files can't be reflinked")
        if content_of(record, sibling.manifest_digest) not in sibling.record_digests:
            raise CannotReflink("its record isn't the one that was written on this machine")
        record.seek(0)
        yield record


def _fetch(store: FileStore, job: UnpackJob) -> None:
    """Take what is lacking from the layers. Raises CannotReflink where they don't have it, and as `unpack` does."""
    image = job.image
    with (
        job.console.transfer(image.download_size, lambda: 0) as transfer,
        job.source.layers(image, transfer) as blobs,
    ):
        for number, (layer, blob) in enumerate(blobs):
            text = f"layer {number + 1} of {len(image.layers)}"
            transfer.describe(text)
            with error_context(text), open_archive(layer, blob.chunks()) as archive, tree_errors("write"):
                store.fetch(open_reader(layer, archive, job.ownership, Budget()))
    if store.lacking:
        raise CannotReflink("files that its record names are not in the layers")


def _budget(job: UnpackJob) -> Budget:
    """Return the budget for what is made: reflinks take no space, so only a size that was asked for limits contents."""
    return Budget(job.free_space().size if job.options.max_size is None else job.options.max_size)
