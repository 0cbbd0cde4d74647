"""The archive in a layer's blob, decompressed and verified while it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from provisioner.archives.compression import decompress
from provisioner.image.digest import verified_chunks
from provisioner.image.image import Layer
from provisioner.layers.prefetch import Prefetcher
from provisioner.layers.rootfs_reader import is_converted

_DEPTH = 4
"""Pieces of an archive, half a MiB each, that wait between two stages."""


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
