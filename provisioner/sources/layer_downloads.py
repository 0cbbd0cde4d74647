"""Layers that are downloaded into the blob cache ahead of their readers."""

from __future__ import annotations

from collections.abc import Iterator
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

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers with their blobs; all downloads start at once, `jobs` at a time.

        Raises Unverified where a reader failed on bytes that were not verified yet. When it is called again, readers
        get only verified bytes.
        """
        # A layer may occur more than once, and is downloaded once.
        downloads = {blob: self._download(blob, progress) for blob in image.manifest.layers}
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
                if size := sum(self._cache.resumable_bytes(blob) for blob in downloads):
                    error.hint = f"{size_text(size)} are kept: run again to go on; {error.hint}"
                raise
            except KeyboardInterrupt as error:
                if size := sum(self._cache.resumable_bytes(blob) for blob in downloads):
                    error.add_note(f"{size_text(size)} are kept: run again to go on")
                raise

    def _download(self, blob: Descriptor, progress: Arrivals) -> Download:
        first = self._verified_first
        return Download(blob, self._cache, self._blobs, progress, progress.present, verified_first=first)
