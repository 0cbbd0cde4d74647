"""Images from the cache alone, for `--offline`; errors name what the cache doesn't have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.errors import NetworkError
from provisioner.image.digest import Digest
from provisioner.image.image import Image, Layer
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.sizes import counted, size_text
from provisioner.sources import Arrivals, LayerBlob
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import DocumentSource, cached_document
from provisioner.store.known_tags import KnownTags

_HINT = "run once without --offline"


class OfflineRegistry(DocumentSource):
    """What the cache has of the repository of `reference`, in place of its registry."""

    def __init__(self, reference: Reference, cache: BlobCache, known_tags: KnownTags) -> None:
        self._reference = reference
        self._cache = cache
        self._known_tags = known_tags

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the document that a digest names, or that a tag named when it was last asked for.

        Raises NetworkError where the cache doesn't have it.
        """
        if isinstance(selector, Descriptor):
            digest = selector.digest
            document = cached_document(self._cache, digest, selector.media_type, selector.size)
        elif ":" in selector:
            digest = Digest.parse(selector)
            document = cached_document(self._cache, digest)
        elif known := self._known_tags.find(self._reference):
            digest = known.digest
            document = cached_document(self._cache, *known)
        else:
            raise NetworkError(f"offline: the cache doesn't know what {self._reference.familiar} names", _HINT)
        if document is None:
            raise NetworkError(f"offline: the cache has no manifest {digest} of {self._reference.name}", _HINT)
        return document

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Raise NetworkError: only blobs that are not in the cache, or damaged there, are asked for."""
        raise NetworkError(f"offline: the cache has no sound blob {descriptor.digest} of {self._reference.name}", _HINT)


class OfflineSource(RegistrySource):
    """The image that `reference` names, if it is in the cache."""

    def __init__(
        self, reference: Reference, cache: BlobCache, known_tags: KnownTags, jobs: int, lock: Lock | None = None
    ) -> None:
        super().__init__(reference, OfflineRegistry(reference, cache, known_tags), cache, jobs, lock)

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers with their blobs. Raises NetworkError that names all that are missing."""
        blobs = dict.fromkeys(layer.blob for layer in image.layers)
        if missing := [blob for blob in blobs if not self._cache.has(blob.digest)]:
            size = size_text(sum(blob.size for blob in missing))
            names = ", ".join(blob.digest.short for blob in missing)
            what = f"the cache lacks {len(missing)} of {counted(len(blobs), 'layer')}, {size}: {names}"
            raise NetworkError(f"offline: {what}", _HINT)
        try:
            with super().layers(image, progress) as layers:
                yield layers
        except NetworkError as error:
            error.hint = _HINT
            raise
