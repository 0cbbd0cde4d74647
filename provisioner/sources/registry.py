"""Images from a registry: documents straight from it, layers through the blob cache, downloaded ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from provisioner.blobs import Arrival, BlobCache, Origin, Unverified, arriving
from provisioner.errors import MalformedImage, NetworkError, doing
from provisioner.image import DOCUMENT_LIMIT, INDEX_TYPES, Descriptor, Image, Index, Layer, Manifest
from provisioner.platforms import Platform, choose
from provisioner.reference import Reference
from provisioner.registry.client import Document

_NESTED = 4
"""How many indexes may lead to one another."""


class Registry(Origin, Protocol):
    """Where the documents and the blobs of one repository come from."""

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names, verified."""


class RegistrySource:
    """The image at `reference`. `jobs` blobs are downloaded at a time."""

    def __init__(self, reference: Reference, registry: Registry, cache: BlobCache, jobs: int) -> None:
        self._reference = reference
        self._registry = registry
        self._cache = cache
        self._jobs = jobs
        self._verified_first = False

    @property
    def reference(self) -> str:
        """The full reference."""
        return str(self._reference)

    def image(self, platform: Platform) -> Image:
        """The image for `platform`: index, if there is one, to manifest to config, each checked against its digest."""
        top = document = self._registry.manifest(self._reference.selector)
        stated: Platform | None = None
        for _ in range(_NESTED):
            if document.media_type not in INDEX_TYPES:
                return self._image(document, None if document is top else top, stated, platform)
            with doing(self._reference.familiar):
                chosen = _chosen(Index.from_json(document.data), platform)
            stated = chosen.platform or stated
            document = self._registry.manifest(chosen)
        raise MalformedImage(f"{self._reference.familiar}: more than {_NESTED} indexes lead to one another")

    def _image(self, document: Document, index: Document | None, stated: Platform | None, wanted: Platform) -> Image:
        """The image of a manifest that an index, if there was one, gave for the platform `stated`."""
        with doing(self._reference.familiar):
            config = Manifest.from_json(document.data).config
            if config.size > DOCUMENT_LIMIT:
                raise MalformedImage(f"the config has {config.size} bytes, {DOCUMENT_LIMIT} is the most")
            data = self._cache.get(config, self._registry)
            image = Image.from_documents(document.data, data, index.digest if index else None, stated)
            choose([(image.config.platform, image)], wanted, "the image")
            return image

    @contextmanager
    def layers(
        self, image: Image, progress: Callable[[int], None]
    ) -> Iterator[Iterator[tuple[Layer, Iterator[bytes]]]]:
        """The layers with their blobs; downloads start at once and run ahead.

        Raises Unverified when something that a blob's reader chokes on was not verified yet: the next time, blobs are
        given out when they are.
        """
        # A layer may occur more than once, and is downloaded once.
        arrivals = {blob: self._arrival(blob, progress) for blob in image.manifest.layers}
        with arriving(list(arrivals.values()), self._jobs):
            try:
                yield ((layer, arrivals[layer.blob].chunks()) for layer in image.layers)
            except MalformedImage as error:
                if any(arrival.is_doubtful for arrival in arrivals.values()) and not self._verified_first:
                    self._verified_first = True
                    raise Unverified(error.message, error.hint) from error
                raise
            except NetworkError as error:
                if kept := sum(self._cache.kept(blob) for blob in arrivals):
                    error.hint = f"{kept / 1e6:.1f} MB are kept: run again to go on; {error.hint}"
                raise

    def _arrival(self, blob: Descriptor, progress: Callable[[int], None]) -> Arrival:
        return Arrival(blob, self._cache, self._registry, progress, verified_first=self._verified_first)


def _chosen(index: Index, wanted: Platform) -> Descriptor:
    """The entry for the platform `wanted`. Where none says what it is for, the config of the first has the word."""
    said = [(entry.platform, entry) for entry in index.manifests if entry.platform]
    return choose(said or [(wanted, entry) for entry in index.manifests], wanted, "the image")
