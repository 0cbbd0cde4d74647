"""Layers that are downloaded into the blob cache ahead of their readers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from provisioner.errors import MalformedImage, NetworkError
from provisioner.image.image import Image, Layer
from provisioner.image.manifest import Descriptor
from provisioner.sizes import size_text
from provisioner.sources import Arrivals, LayerBlob
from provisioner.store.blobs import BlobCache, BlobSource
from provisioner.store.download import Download, Unverified, downloading


class LayerDownloads:
    """The part of a Source that returns layers, which come from `blobs`. `jobs` blobs are downloaded at a time."""

    def __init__(self, blobs: BlobSource, cache: BlobCache, jobs: int) -> None:
        self._blobs = blobs
        self._cache = cache
        self._jobs = jobs
        self._verified_first = False
        self._wanted: Collection[Descriptor] = ()

    @contextmanager
    def noting_interrupts(self) -> Iterator[None]:
        """Add a note to what interrupts the block, as KeyboardInterrupt: how much of the layers stays in the cache."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and (text := self._resumable_text()):
                error.add_note(text)
            raise

    def _resumable_text(self) -> str:
        """Return how much of the layers the next run needn't download; empty where that is nothing."""
        size = sum(map(self._cache.resumable_bytes, self._wanted))
        return f"{size_text(size)} are kept: run again to go on" if size else ""

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers with their blobs; all downloads start at once, `jobs` at a time.

        Raises Unverified where a reader failed on bytes that were not verified yet. When it is called again, readers
        get only verified bytes.
        """
        # A layer may occur more than once, and is downloaded once.
        downloads = {blob: self._download(blob, progress) for blob in image.manifest.layers}
        self._wanted = downloads
        with downloading(list(downloads.values()), self._jobs):
            try:
                yield ((layer, downloads[layer.blob]) for layer in image.layers)
            except MalformedImage as error:
                has_unverified = any(download.has_unverified_reads for download in downloads.values())
                if has_unverified and not self._verified_first:
                    self._verified_first = True
                    raise Unverified(error.message, error.hint) from error
                raise
            except NetworkError as error:
                if text := self._resumable_text():
                    error.hint = f"{text}; {error.hint}"
                raise

    def _download(self, blob: Descriptor, progress: Arrivals) -> Download:
        first = self._verified_first
        return Download(blob, self._cache, self._blobs, progress, progress.count_cached, verified_first=first)
