"""Images without a network: only what is in the cache, and words for what isn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.errors import NetworkError
from provisioner.image.image import Image, Layer
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import Documents, by_digest

_MEND = "run once without --offline"


class Offline:
    """What a cache has of a repository, in place of its registry."""

    def __init__(self, reference: Reference, documents: Documents) -> None:
        self._reference = reference
        self._documents = documents

    def manifest(self, selector: str | Descriptor) -> Document:
        """The document that a digest names, or a tag when it was last asked for. Raises NetworkError."""
        if document := by_digest(self._documents, selector):
            return document
        name = str(selector.digest if isinstance(selector, Descriptor) else selector)
        if ":" not in name:
            if noted := self._documents.noted(self._reference):
                if document := self._documents.find(*noted):
                    return document
                name = str(noted[0])
            else:
                raise NetworkError(f"offline: nobody has asked for {self._reference.familiar} so far", _MEND)
        raise NetworkError(f"offline: the cache has no manifest {name} of {self._reference.name}", _MEND)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Raises NetworkError: the cache has been looked at."""
        raise NetworkError(f"offline: the cache has no sound blob {descriptor.digest} of {self._reference.name}", _MEND)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Always False: there is nobody else to ask."""
        return False


class OfflineSource(RegistrySource):
    """The image at `reference`, as far as it is in the cache."""

    def __init__(
        self, reference: Reference, documents: Documents, cache: BlobCache, jobs: int, lock: Lock | None = None
    ) -> None:
        super().__init__(reference, Offline(reference, documents), cache, jobs, lock)

    @contextmanager
    def layers(
        self, image: Image, progress: Callable[[int], None]
    ) -> Iterator[Iterator[tuple[Layer, Iterator[bytes]]]]:
        """The layers with their blobs. Raises NetworkError that names all that are missing."""
        blobs = dict.fromkeys(layer.blob for layer in image.layers)
        if missing := [blob for blob in blobs if not self._cache.has(blob.digest)]:
            size = sum(blob.size for blob in missing) / 1e6
            names = ", ".join(blob.digest.short for blob in missing)
            what = f"{len(missing)} of {len(blobs)} layers are not in the cache, {size:.1f} MB: {names}"
            raise NetworkError(f"offline: {what}", _MEND)
        try:
            with super().layers(image, progress) as layers:
                yield layers
        except NetworkError as error:
            error.hint = _MEND
            raise
